"use strict";
// Adds what HTML has not: copying, the wipe between pictures, reading the matrix cell by cell.
document.documentElement.classList.add("js");

for (const button of document.querySelectorAll("[data-copies]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copies);
    const range = document.createRange();
    range.selectNodeContents(source);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    let copied = false;
    try {
      await navigator.clipboard.writeText(source.textContent);
      copied = true;
    } catch {
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Selected";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

const NAMES = ["Image", "Truth", "Prediction", "Error"];
for (const figure of document.querySelectorAll("figure.exhibit")) {
  const layers = [...figure.querySelectorAll(".layers img")];
  const radios = [...figure.querySelectorAll(".tabs input")];
  const slider = figure.querySelector(".wipe");
  const cut = figure.querySelector(".cut");
  const show = () => {
    const at = Number(slider.value);
    figure.classList.add("wiping");
    layers.forEach((layer, i) => {
      const part = i === 0 ? 1 : Math.min(1, Math.max(0, at - i + 1));
      layer.style.clipPath = `inset(0 ${100 * (1 - part)}% 0 0)`;
    });
    const part = at - Math.floor(at);
    cut.style.left = `${100 * part}%`;
    cut.style.visibility = part > 0 ? "visible" : "hidden";
    radios[Math.round(at)].checked = true;
    const [low, high] = [NAMES[Math.floor(at)], NAMES[Math.ceil(at)]];
    const text = part > 0 ? `${high} to the left, ${low} to the right` : low;
    slider.setAttribute("aria-valuetext", text);
  };
  slider.addEventListener("input", show);
  radios.forEach((radio, i) => radio.addEventListener("change", () => {
    slider.value = i;
    show();
  }));
  show();
}

const data = JSON.parse(document.getElementById("confusion-data").textContent);
const matrix = document.querySelector(".matrix table");
if (matrix) {
  const readout = document.getElementById("readout");
  const rows = [...matrix.tBodies[0].rows].map((row) => [...row.cells].slice(1));
  const sums = data.confusion.map((row) => row.reduce((a, b) => a + b, 0));
  const words = (t, p) => {
    const count = data.confusion[t][p];
    if (!sums[t]) return `${data.names[t]}: there is none in the truth, so nothing could be found or mistaken`;
    const share = (100 * count / sums[t]).toFixed(2);
    const verb = t === p ? "found" : `taken for ${data.names[p]}`;
    return `${data.names[t]}: ${share} % ${verb} (${count.toLocaleString("en")} of ${sums[t].toLocaleString("en")} pixels)`;
  };
  const place = (cell) => [cell.parentNode.rowIndex - 1, cell.cellIndex - 1];
  const tell = (cell) => {
    const [t, p] = place(cell);
    readout.textContent = words(t, p);
    cell.setAttribute("aria-label", readout.textContent);
  };
  let current = rows[0][0];
  current.tabIndex = 0;
  const go = (t, p) => {
    current.tabIndex = -1;
    current = rows[t][p];
    current.tabIndex = 0;
    current.focus();
  };
  matrix.addEventListener("focusin", (event) => tell(event.target));
  matrix.addEventListener("mouseover", (event) => {
    if (event.target.tagName === "TD") tell(event.target);
  });
  matrix.addEventListener("click", (event) => {
    if (event.target.tagName === "TD") go(...place(event.target));
  });
  matrix.addEventListener("keydown", (event) => {
    const [t, p] = place(current);
    const last = rows.length - 1;
    const to = {
      ArrowUp: [Math.max(0, t - 1), p],
      ArrowDown: [Math.min(last, t + 1), p],
      ArrowLeft: [t, Math.max(0, p - 1)],
      ArrowRight: [t, Math.min(last, p + 1)],
      Home: [t, 0],
      End: [t, last],
    }[event.key];
    if (!to) return;
    event.preventDefault();
    go(...to);
  });
}
