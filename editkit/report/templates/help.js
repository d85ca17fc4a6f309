// Explains a column under the mouse or at keyboard focus. Escape closes the explanation; without
// this script, the title does the same for the mouse.
{
  const help = document.getElementById("help");
  let shown = null;
  const hide = () => { help.hidden = true; shown = null; };
  const show = (head) => {
    shown = head;
    help.textContent = head.dataset.help;
    help.hidden = false;
    const box = head.getBoundingClientRect(), room = document.documentElement.clientWidth;
    const left = Math.max(8, Math.min(box.left, room - help.offsetWidth - 8));
    const above = box.top - help.offsetHeight - 6;
    help.style.left = `${left}px`;
    help.style.top = `${above < 4 ? box.bottom + 6 : above}px`;
  };
  for (const head of document.querySelectorAll(".explained")) {
    head.dataset.help = head.title;
    head.setAttribute("aria-description", head.title);
    head.removeAttribute("title");
    head.addEventListener("mouseenter", () => show(head));
    head.addEventListener("focus", () => show(head));
    head.addEventListener("blur", hide);
    head.addEventListener("mouseleave", (event) => {
      if (event.relatedTarget !== help) hide();
    });
  }
  help.addEventListener("mouseleave", hide);
  addEventListener("scroll", () => { if (shown) show(shown); }, { capture: true, passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
}
