"use strict";
/* Tables sort by a click on a title (again: the other way) and can be saved. Without script all can be read. */
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], titles = [...table.tHead.rows[0].cells];
  const text = (row, i) => row.cells[i].textContent.trim();
  const sort = (i) => {
    const down = titles[i].getAttribute("aria-sort") === "ascending", sign = down ? -1 : 1;
    const number = titles[i].classList.contains("number");
    const rows = [...body.rows].sort((a, b) => {
      const x = text(a, i), y = text(b, i);
      if (!number) return sign * x.localeCompare(y);
      const p = parseFloat(x), q = parseFloat(y);
      if (isNaN(p) || isNaN(q)) return isNaN(p) - isNaN(q);  /* what is not there comes last */
      return sign * (p - q);
    });
    titles.forEach((title) => title.removeAttribute("aria-sort"));
    titles[i].setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  };
  titles.forEach((title, i) => {
    title.tabIndex = 0;
    title.classList.add("sortable");
    title.addEventListener("click", () => sort(i));
    title.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort(i);
    });
  });
  const quoted = (cell) => `"${cell.textContent.trim().replaceAll('"', '""')}"`;
  const button = document.createElement("button");
  button.textContent = "CSV";
  button.title = "Save this table as it is sorted";
  button.addEventListener("click", () => {
    const lines = [...table.rows].map((row) => [...row.cells].map(quoted).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    link.download = "table.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  table.parentElement.after(button);
}
