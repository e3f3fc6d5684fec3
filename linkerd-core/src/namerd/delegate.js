const lines = (node, depth, out) => {
  const dentry = node.dentry ? `  (${node.dentry.prefix} => ${node.dentry.dst})` : "";
  out.push("  ".repeat(depth) + node.type + " " + (node.path ?? "") + dentry);
  if (node.bound) {
    const addrs = node.bound.addr.addrs ?? [];
    const shown = node.bound.addr.type === "bound" ? addrs.map((a) => `${a.ip}:${a.port}`).join(" ") : node.bound.addr.type;
    out.push("  ".repeat(depth + 1) + node.bound.id + " -> " + shown);
  }
  if (node.message) out.push("  ".repeat(depth + 1) + node.message);
  if (node.delegate) lines(node.delegate, depth + 1, out);
  if (node.tree) lines(node.tree, depth + 1, out);
  for (const child of node.alt ?? []) lines(child, depth + 1, out);
  for (const branch of node.union ?? []) {
    out.push("  ".repeat(depth + 1) + branch.weight + " *");
    lines(branch.tree, depth + 2, out);
  }
  return out;
};
document.getElementById("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = document.getElementById("answer");
  const query = new URLSearchParams(new FormData(event.target));
  query.set("namespace", namespace);
  try {
    const rsp = await fetch("/dtab/delegator.json?" + query);
    const text = await rsp.text();
    answer.textContent = rsp.ok ? lines(JSON.parse(text), 0, []).join("\n") : text;
  } catch (error) {
    answer.textContent = error;
  }
});
