"use strict";

const NARROW = 560;
// On a touch screen a finger scrolls the page, so dragging over a figure must not zoom it.
const TOUCH = window.matchMedia("(pointer: coarse)").matches;
const DARK = window.matchMedia("(prefers-color-scheme: dark)");

function readFigure(name) {
  let text = document.getElementById(name).textContent;
  if (DARK.matches) {
    const colors = JSON.parse(document.getElementById("dark-colors").textContent);
    for (const [light, dark] of Object.entries(colors)) text = text.replaceAll(`"${light}"`, `"${dark}"`);
  }
  return JSON.parse(text);
}

// The library takes a second to load, so the page is shown before it is loaded.
const PLOTLY = document.currentScript.dataset.plotly;
let library = null;
function loadPlotly() {
  library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = PLOTLY;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${PLOTLY} is missing beside this page`));
    document.head.append(script);
  });
  return library;
}

async function drawFigure(element) {
  try {
    await loadPlotly();
  } catch (error) {
    element.textContent = error.message;
    return;
  }
  const figure = readFigure(element.dataset.figure);
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: false,
    scrollZoom: false,
  };
  if (TOUCH) figure.layout.dragmode = figure.layout.scene ? "turntable" : false;
  const camera = figure.layout.scene?.camera;
  if (camera && element.clientWidth < NARROW) {
    for (const side of ["x", "y", "z"]) camera.eye[side] *= 1.5;
  }
  Plotly.react(element, figure.data, figure.layout, config);
  element.classList.add("drawn");
}

function sortTable(table, column, button) {
  const header = button.closest("th");
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const rows = Array.from(table.tBodies[0].rows);
  const key = (row) => row.cells[column].dataset.order;
  const numeric = rows.every((row) => key(row) !== "" && !Number.isNaN(Number(key(row))));
  const compare = numeric
    ? (a, b) => Number(key(a)) - Number(key(b))
    : (a, b) => key(a).localeCompare(key(b));
  rows.sort((a, b) => (ascending ? compare(a, b) : compare(b, a)));
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  Array.from(table.tHead.rows[0].cells).forEach((cell, column) => {
    const button = cell.querySelector("button");
    button.addEventListener("click", () => sortTable(table, column, button));
  });
}

// A figure is drawn when the reader scrolls near it, because eight at once would block the page.
const near = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      drawFigure(entry.target);
    }
  },
  { rootMargin: "400px" },
);
window.addEventListener("load", () => {
  for (const element of document.querySelectorAll("[data-figure]")) near.observe(element);
});
window.addEventListener("beforeprint", () => {
  for (const element of document.querySelectorAll("[data-figure]:not(.drawn)")) drawFigure(element);
});
DARK.addEventListener("change", () => {
  for (const element of document.querySelectorAll("[data-figure].drawn")) drawFigure(element);
});
