"use strict";
// Without this script the page shows everything, in the order in which it was written.
for (const table of document.querySelectorAll(".scroll > table")) {
  const body = table.tBodies[0];
  const sorts = table.tHead && !table.classList.contains("heat"); // its last row is no arm
  const heads = sorts ? [...table.tHead.rows[0].cells] : [];
  heads.forEach((head, column) => {
    head.tabIndex = 0;
    head.classList.add("sorts");
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => {
        const text = row.cells[column].textContent.trim().replaceAll("\u2212", "-");
        const number = text.match(/^[<\[]?\s*([+-]?[\d.,]*\d(?:e[+-]?\d+)?)/);
        return number ? Number(number[1].replaceAll(",", "")) : text;
      };
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
        return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
      };
      body.append(...[...body.rows].sort(order));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
  const more = body.querySelectorAll("tr.more").length;
  if (more) {
    table.classList.add("folded");
    const button = document.createElement("button");
    button.textContent = `${more} more arms`;
    button.addEventListener("click", () => { table.classList.remove("folded"); button.remove(); });
    table.parentElement.after(button);
  }
}
