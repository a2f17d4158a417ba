// Says what became of a cut: a new snapshot, or the one that says the same already.

document.getElementById("cut")?.addEventListener("done", ({ target, detail }) => {
  const id = detail.id.slice(7, 15);
  target.dataset.done = detail.created ? `Snapshot ${id} is cut.` : `Nothing is new since snapshot ${id}.`;
});
