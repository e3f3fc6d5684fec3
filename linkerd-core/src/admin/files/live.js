const cells = document.querySelectorAll("[data-metric]");
async function refresh() {
  try {
    const rsp = await fetch("/admin/metrics.json");
    if (!rsp.ok) return;
    const metrics = await rsp.json();
    for (const cell of cells) cell.textContent = metrics[cell.dataset.metric] ?? 0;
  } catch { /* The next one may get through. */ }
}
setInterval(refresh, 5000);
