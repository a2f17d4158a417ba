// Files dropped anywhere on the page go into a form's file field, as if they had been chosen there.

// `refuse(text)` says what cannot be taken.
export function takeDrops(field, refuse) {
  const mark = (over) => field.form.classList.toggle("dropping", over);
  const holdsFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");

  document.addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault(); // or the browser opens the file in place of this page
    event.dataTransfer.dropEffect = "copy";
    mark(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) mark(false);
  });
  document.addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    mark(false);
    if (field.disabled) {
      refuse("Files are on their way; drop these when they are there.");
      return;
    }
    const items = Array.from(event.dataTransfer.items);
    if (items.some((item) => item.webkitGetAsEntry?.()?.isDirectory)) {
      refuse("A folder cannot be dropped; drop its images, or an archive of it.");
      return;
    }
    field.files = event.dataTransfer.files;
    field.dispatchEvent(new Event("change", { bubbles: true }));
  });
}
