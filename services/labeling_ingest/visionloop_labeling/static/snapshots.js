// Says what became of a cut: a new snapshot, or the one that says the same already.

import { sayNext } from "./forms.js";

document.getElementById("cut")?.addEventListener("done", ({ detail }) => {
  const id = detail.id.slice(7, 15);
  sayNext(detail.created ? `Snapshot ${id} is cut.` : `Nothing is new since snapshot ${id}.`);
});
