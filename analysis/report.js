"use strict";

const NARROW = 560;
// Where a finger scrolls the page, dragging over a figure must not zoom it.
const TOUCH = window.matchMedia("(pointer: coarse)").matches;

function drawFigure(element) {
  const figure = JSON.parse(document.getElementById(element.dataset.figure).textContent);
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
  Plotly.newPlot(element, figure.data, figure.layout, config);
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

for (const element of document.querySelectorAll("[data-figure]")) drawFigure(element);
