"use strict";

// Keys: 1, 2, 3 answer one question after the other, Enter sends or starts, Backspace goes back.
const form = document.querySelector("form");
const back = document.querySelector("a.back");
const start = document.querySelector("a.button");

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) {
    return;
  }
  if (event.key === "Backspace" && back) {
    event.preventDefault();
    back.click();
  } else if (event.key === "Enter" && start) {
    event.preventDefault();
    start.click();
  } else if (event.key === "Enter" && form && document.activeElement.tagName !== "A") {
    event.preventDefault();
    form.requestSubmit();
  } else if (form && ["1", "2", "3"].includes(event.key)) {
    answer(Number(event.key) - 1);
  }
});

// The question that holds the focus; else the first that has no answer; else the last one.
function answer(choice) {
  const questions = [...form.querySelectorAll("fieldset")];
  const open = questions.find((question) => !question.querySelector("input:checked"));
  const question = open || document.activeElement.closest("fieldset") || questions.at(-1);
  const input = question.querySelectorAll("input")[choice];
  input.checked = true;
  input.focus();
}
