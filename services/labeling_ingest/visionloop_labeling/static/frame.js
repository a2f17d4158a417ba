// What every page has: light or dark, one menu open at a time, local times, short messages.

const root = document.documentElement;

// Back from another page, this one is as it was left: what it shows may be another by now. Not where
// somebody has begun to write, nor where the page keeps itself up to date.
addEventListener("pageshow", (event) => {
  if (event.persisted && !document.querySelector("#label, #grid") && !begun()) location.reload();
});

const begun = () =>
  [...document.querySelectorAll("main :is(input, textarea)")].some(
    (one) => one.value !== one.defaultValue || one.checked !== one.defaultChecked,
  );

function isDark() {
  const chosen = root.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

const themeSwitch = document.querySelector("[data-theme-switch]");
if (themeSwitch) {
  themeSwitch.hidden = false;
  themeSwitch.addEventListener("click", () => {
    const next = isDark() ? "light" : "dark";
    root.dataset.theme = next;
    // The server reads it, so that the next page does not flash.
    document.cookie = `theme=${next}; path=/; max-age=31536000; samesite=lax`;
  });
}

// Times stand in UTC; here they are said in the reader's own zone, UTC in the tip.
const moments = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
for (const time of document.querySelectorAll("time[datetime]")) {
  time.title = time.textContent;
  time.textContent = moments.format(new Date(time.dateTime));
}

document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

// On a small screen the tabs are a strip: the page that is open stands in it.
document
  .querySelector(".tabs [aria-current]")
  ?.scrollIntoView({ inline: "center", block: "nearest", behavior: "instant" });
