// Before the first paint: the theme that somebody chose here, else the machine's.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch { /* a file: page may have no storage */ }
