// On a narrow screen the menu is one line that scrolls: show the link of this page.
(() => {
  "use strict";
  const menu = document.querySelector(".side nav"), link = menu?.querySelector("a[aria-current]");
  if (!link) return;
  const from = link.getBoundingClientRect().left - menu.getBoundingClientRect().left;
  menu.scrollLeft += from - (menu.clientWidth - link.offsetWidth) / 2;
})();
