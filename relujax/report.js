// Tables sort by a click on a head: up, down, and back to the order of the page. The theme follows the system until the
// button is pressed. Details are open on paper.

const NUMBER = /^[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?(?![\w.])/;
const order = new Intl.Collator("en", { numeric: true });

function value(row, column) {
  return row.cells[column].textContent.trim();
}

// Numbers by size where all cells of the column are numbers or nothing, words in natural order; nothing comes last.
function sorted(rows, column, direction) {
  const missing = (row) => ["", "–"].includes(value(row, column));
  const present = rows.filter((row) => !missing(row));
  const number = (row) => parseFloat(value(row, column).replaceAll(",", ""));
  const compare = present.every((row) => NUMBER.test(value(row, column)))
    ? (a, b) => number(a) - number(b)
    : (a, b) => order.compare(value(a, column), value(b, column));
  return [...present.sort((a, b) => direction * compare(a, b)), ...rows.filter(missing)];
}

for (const table of document.querySelectorAll("table.sortable")) {
  const [body] = table.tBodies;
  const asPrinted = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")] ?? "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", other === head ? next : "none"));
      const direction = next === "ascending" ? 1 : -1;
      body.append(...(next === "none" ? asPrinted : sorted([...asPrinted], column, direction)));
    });
  });
}

const system = matchMedia("(prefers-color-scheme: dark)");
const button = document.getElementById("theme");
let chosen = null;
try {
  chosen = localStorage.getItem("relujax-theme");
} catch {} // a page without storage forgets the choice
function show() {
  const dark = (chosen ?? (system.matches ? "dark" : "light")) === "dark";
  document.documentElement.style.colorScheme = chosen ?? "";
  button.textContent = dark ? "light" : "dark";
  button.setAttribute("aria-label", `switch to the ${button.textContent} theme`);
}
button.hidden = false;
button.addEventListener("click", () => {
  chosen = button.textContent;
  try {
    localStorage.setItem("relujax-theme", chosen);
  } catch {}
  show();
});
system.addEventListener("change", show);
show();

let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((details) => (details.open = true));
});
addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));
