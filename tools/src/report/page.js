// Draws everything, and again when the colours change.

function all() {
  about();
  texts();
  heat();
  curves();
  compare();
  sizes();
}
all();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
