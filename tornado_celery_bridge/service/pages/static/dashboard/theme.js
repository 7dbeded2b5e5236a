"use strict";

// Before the page is drawn: set the theme that was chosen in this browser. Without one, the system's theme holds.
{
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
}
