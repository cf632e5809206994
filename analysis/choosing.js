"use strict";

// The two sliders show the most accurate network within the budget, its picture and its command.
function startChooser(form) {
  const data = JSON.parse(document.getElementById("chooser-data").textContent);
  const output = document.getElementById("chosen");
  const rows = data.budgets.map((budget, index) => {
    const range = form.querySelector(`input[type=range][data-budget="${index}"]`);
    const number = form.querySelector(`input[type=number][data-budget="${index}"]`);
    range.addEventListener("input", () => {
      number.value = Number(range.value).toPrecision(4) / 1;
      choose();
    });
    number.addEventListener("input", () => {
      if (number.value !== "") range.value = number.value;
      choose();
    });
    return number;
  });

  function choose() {
    // An empty field sets no limit. The factor 1.0005 allows for rounding of the shown number.
    const limits = rows.map((row) => (row.value === "" ? Infinity : Number(row.value) * 1.0005));
    const best = data.networks.find((network) =>
      network.values.every((value, index) => value <= limits[index]),
    );
    output.querySelector("[data-none]").hidden = Boolean(best);
    output.querySelector("[data-some]").hidden = !best;
    if (!best) return;
    output.querySelector("[data-label]").textContent = `Trial ${best.label}`;
    const list = output.querySelector("dl");
    list.replaceChildren(
      ...best.texts.map(([label, text]) => {
        const row = document.createElement("div");
        row.append(document.createElement("dt"), document.createElement("dd"));
        row.children[0].textContent = label;
        row.children[1].textContent = text;
        return row;
      }),
    );
    output.querySelector("code").textContent = best.command;
    const picture = output.querySelector("img");
    const source = data.pictures[`${best.run}/${best.key}`];
    picture.hidden = !source;
    if (source) {
      picture.src = source;
      picture.alt = `Prediction of trial ${best.label} for a typical image`;
    }
  }
  choose();
}

for (const form of document.querySelectorAll("#chooser")) startChooser(form);
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = document.querySelector(button.dataset.copy).textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(document.querySelector(button.dataset.copy));
      button.textContent = "Selected: press Ctrl-C";
    }
  });
}
