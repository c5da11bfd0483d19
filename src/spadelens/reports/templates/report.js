"use strict";
// Runs in the head: the page is drawn once, with one picture per map. Without it both pictures are there.
document.documentElement.classList.add("js");
document.documentElement.dataset.view = "overlay";

function showView(view) {
  document.documentElement.dataset.view = view;
  for (const button of document.querySelectorAll("button[data-show]")) {
    button.setAttribute("aria-pressed", String(button.dataset.show === view));
  }
}

function selectText(element) {
  const range = document.createRange();
  range.selectNodeContents(element);
  const selection = window.getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
}

async function copyText(button) {
  const source = document.getElementById(button.dataset.copy);
  let isCopied = true;
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    // Some browsers give local files no clipboard: select the text, so that one key press copies it.
    selectText(source);
    isCopied = document.execCommand("copy");
  }
  button.textContent = isCopied ? "Copied" : "Selected";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.show) showView(button.dataset.show);
  if (button?.dataset.copy) copyText(button);
});

document.addEventListener("pointermove", (event) => {
  const pictures = event.target.closest?.("[data-values]");
  const shown = pictures?.closest("figure").querySelector(".readout");
  for (const other of document.querySelectorAll(".readout")) if (other !== shown) other.textContent = "";
  if (!shown) return;
  const frame = event.target.getBoundingClientRect();
  const columns = Number(pictures.dataset.columns), rows = Number(pictures.dataset.rows);
  const column = Math.min(columns - 1, Math.max(0, Math.floor(columns * (event.clientX - frame.left) / frame.width)));
  const row = Math.min(rows - 1, Math.max(0, Math.floor(rows * (event.clientY - frame.top) / frame.height)));
  const value = atob(pictures.dataset.values).charCodeAt(row * columns + column);
  shown.textContent = `here ${value}% of the strongest`;
});
