// Keys: the letters on `[data-key]` elements, two letters after g on links of the menu, and the rows.
(() => {
  "use strict";
  const ROWS = "main tbody tr:not(.detail), main .need, main .answer, main .lane, main .results li";
  // A dialog that was just closed may still be the target of the next key.
  const isTyping = (node) => node.closest("input, textarea, select, [contenteditable], dialog[open]");
  let isGo = false;

  function move(by) {
    const rows = [...document.querySelectorAll(ROWS)].filter((row) => row.querySelector("a[href]"));
    const here = rows.findIndex((row) => row.contains(document.activeElement));
    const row = rows[here < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.max(0, Math.min(here + by, rows.length - 1))];
    row?.querySelector("a[href]").focus();
    row?.scrollIntoView({ block: "nearest" });
  }

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey) {
      // In a text of several lines, Enter alone is a line break.
      if (event.key === "Enter" && event.target.matches("textarea")) event.target.form?.requestSubmit();
      return;
    }
    if (event.altKey || event.repeat || event.defaultPrevented || isTyping(event.target)) return;
    const wanted = isGo ? `[data-go="${CSS.escape(event.key)}"]` : `[data-key="${CSS.escape(event.key)}"]`;
    isGo = event.key === "g" && !isGo;
    if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
    else if (event.key === "?") document.getElementById("keys")?.showModal();
    else {
      const found = document.querySelector(wanted);
      if (!found) return;
      event.preventDefault();
      // A button is only shown: one wrong key must not start a run.
      found.matches("input, textarea, button") ? found.focus() : found.click();
    }
  });
})();
