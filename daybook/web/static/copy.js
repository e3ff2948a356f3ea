// Buttons that copy the text of the element whose id they name.
(() => {
  "use strict";
  if (!navigator.clipboard) return; // the address is neither https nor local
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.onclick = async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
    };
  }
})();
