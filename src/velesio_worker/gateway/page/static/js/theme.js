// Before the first paint, so that nobody who chose dark is shown a flash of white. No module: these wait.
try {
  const theme = localStorage.getItem("velesio.theme");
  if (theme === "light" || theme === "dark") {
    document.documentElement.dataset.theme = theme;
  }
} catch {
  // No storage, no choice: the system's theme.
}
