document.querySelectorAll("table.sortable").forEach(table => {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const value = row => { const cell = row.cells[i], n = cell.dataset.v; return n === undefined ? cell.textContent : n === "" ? -Infinity : Number(n); };
    const rows = [...body.rows].sort((a, b) => { const x = value(a), y = value(b); return (x > y ? 1 : x < y ? -1 : 0) * (up ? 1 : -1); });
    heads.forEach(h => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    rows.forEach(row => body.append(row));
  }));
});
document.querySelectorAll("input[type=search]").forEach(input => {
  const table = document.getElementById(input.getAttribute("aria-controls"));
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    [...table.tBodies[0].rows].forEach(row => { const text = row.textContent.toLowerCase(); row.hidden = !words.every(w => text.includes(w)); });
  });
});
document.querySelectorAll("a[href^='#']").forEach(link => link.addEventListener("click", () => {
  const target = document.querySelector(CSS.escape ? "#" + CSS.escape(link.hash.slice(1)) : link.hash);
  if (target && target.tagName === "DETAILS") target.open = true;
}));
