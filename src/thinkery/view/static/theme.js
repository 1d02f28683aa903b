// The reader's choice of dark or light, before anything is painted.
const chosen = localStorage.getItem("thinkery-theme");
if (chosen) document.documentElement.dataset.theme = chosen;
