// Prompts are shown and not copied: what is pasted into a terminal should run.
for (const prompt of document.querySelectorAll(".language-console .gp")) {
  prompt.dataset.text = prompt.textContent;
  prompt.textContent = "";
}
