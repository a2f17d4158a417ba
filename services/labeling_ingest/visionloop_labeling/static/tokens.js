// A new token is shown once, to be copied; the page is fetched anew when that is done.

import { say } from "./http.js";

for (const form of document.querySelectorAll("[data-token]")) {
  const made = form.parentElement.querySelector("[data-made-token]");
  const code = made.querySelector("code");
  form.addEventListener("done", (event) => {
    event.preventDefault();
    code.textContent = event.detail.token;
    form.hidden = true;
    made.hidden = false;
    code.focus();
  });
  made.querySelector("[data-copy]").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      say("Copied.");
    } catch {
      getSelection().selectAllChildren(code); // no clipboard without TLS: Ctrl+C is one key away
    }
  });
  made.querySelector("[data-close]").addEventListener("click", () => location.reload());
}
