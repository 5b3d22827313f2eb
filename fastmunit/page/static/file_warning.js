// Browsers load no modules from file: addresses, so this plain script explains what to do.
if (location.protocol === "file:") {
  const problem = document.getElementById("problem");
  problem.textContent = "Open this page through a web server: run “python -m http.server” in its folder, then open http://localhost:8000.";
  problem.hidden = false;
  document.getElementById("loading").hidden = true;
  document.getElementById("status").textContent = "";
}
