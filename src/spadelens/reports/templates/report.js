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
