"use strict";
// Makes the tables sortable. Without it the page reads the same.
(() => {
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  // null: nothing to order by, which comes last in either direction.
  const keyOf = (cell, numeric) => {
    const text = cell.textContent;
    const key = numeric ? Number.parseFloat(text.replaceAll(",", "")) : text;
    return text === "–" || Number.isNaN(key) ? null : key;
  };

  const compare = (a, b) => (typeof a === "number" ? a - b : collator.compare(a, b));

  const makeSortable = (table) => {
    const body = table.tBodies[0];
    const headings = [...table.tHead.rows[0].cells];
    let original = null;

    const sort = (heading, index) => {
      original ??= [...body.rows];
      const next = { ascending: "descending", descending: null }[heading.getAttribute("aria-sort")];
      const direction = next === undefined ? "ascending" : next;
      for (const other of headings) other.removeAttribute("aria-sort");
      let rows = original;
      if (direction) {
        heading.setAttribute("aria-sort", direction);
        const numeric = heading.classList.contains("n");
        const sign = direction === "ascending" ? 1 : -1;
        rows = original
          .map((row) => ({ row, key: keyOf(row.cells[index], numeric) }))
          .sort((a, b) => {
            if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
            return sign * compare(a.key, b.key);
          })
          .map(({ row }) => row);
      }
      body.replaceChildren(...rows);
    };

    headings.forEach((heading, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(heading, index));
      heading.append(button);
    });
  };

  for (const table of document.querySelectorAll("table")) makeSortable(table);
})();
