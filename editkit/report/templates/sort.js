// Sorts a table by the column of the clicked head; faint lines stay below the line they belong to.
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => {
      const text = row.cells[head.cellIndex].firstChild?.textContent ?? "";
      const number = parseFloat(text.replace("<", ""));
      return isNaN(number) ? text : number;
    };
    const groups = [];
    for (const row of body.rows)
      if (row.cells[0].classList.contains("faint")) groups.at(-1)?.push(row);
      else groups.push([row]);
    groups.sort(([a], [b]) => {
      const x = value(a), y = value(b);
      const order = typeof x !== typeof y ? (typeof x < typeof y ? 1 : -1) : x < y ? -1 : +(x > y);
      return down ? -order : order;
    });
    for (const group of groups) body.append(...group);
  });
}
