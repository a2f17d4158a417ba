// What was said on the labelling page and is not with the service yet, on every other page: it is
// sent from here as well, and says so. Nobody has to think of going back.

import { settled, tell } from "./connection.js";
import { person } from "./http.js";
import { Api } from "./label/api.js";
import { Journal } from "./label/journal.js";
import { openShelf } from "./label/shelf.js";
import { labels, trouble } from "./label/unsent.js";

const shelf = await openShelf();
const waiting = (await shelf.entries()).filter(({ author }) => author === person);
for (const dataset of new Set(waiting.map((entry) => entry.dataset))) {
  const journal = new Journal(new Api(dataset), dataset, person);
  const undecided = {};
  journal.addEventListener("change", () => {
    const told = trouble(journal);
    if (told) tell(journal, { ...told, what: told.what && `${told.what} of ${dataset}` });
    else settled(journal);
    const count = journal.undecided.length;
    if (!count) return settled(undecided);
    const href = `/datasets/${encodeURIComponent(dataset)}/label`;
    const what = `${labels(count)} of ${dataset}`;
    tell(undecided, { what, why: "The service could not take it as it is.", link: { text: "Decide", href } });
  });
  await journal.open();
}
