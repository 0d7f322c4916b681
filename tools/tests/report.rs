//! `hotset profile --html`: a page that stands alone, that no name can break into, and that a browser draws without complaint.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod tiny;

use std::io::Write;
use std::path::Path;
use std::process::Command;

use hotset::profile::Profile;
use tiny::{Tiny, hotset, str};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/molm-demo.hotset");
const TALE: &str = "Once upon a time there was a king who had twelve daughters, and the youngest was the fairest of them all. ";
const CODE: &str = "def add(a, b):\n    return a + b\n\nclass Point:\n    def __init__(self, x):\n        self.x = x\n";

/// A name that ends the script element, opens another, and looks like a place of the template.
const HOSTILE: &str = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">{{js}}";

/// What a person at the keyboard does: moves through the first map and the first chart, opens a table. What was said is kept in the page.
const DRIVER: &str = r##"<script type="module">
const heard = [];
const press = (element, ...keys) => {
  element.focus();
  for (const key of keys) element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  heard.push(document.getElementById("tip").textContent);
};
setTimeout(() => {
  press(document.querySelector("#heat canvas[tabindex]"), "ArrowDown", "ArrowDown", "ArrowRight");
  press(document.querySelector("#curves svg.chart"), "End");
  press(document.querySelector("#compare svg.chart"), "Home");
  document.querySelectorAll("details").forEach((d) => (d.open = true));
  const out = document.createElement("pre");
  out.id = "heard";
  out.textContent = heard.join("\n");
  document.body.append(out);
}, 500);
</script>"##;

/// A profile of a tale with a bad name and of code, and the page about it.
fn page(tiny: &Tiny) -> (Profile, String) {
    let (tale, code, json) = (tiny.file("tale.txt", TALE), tiny.file("code.txt", CODE.repeat(3)), tiny.path("p.json"));
    hotset(&["profile", DEMO, "--text", str(&tale), "--text", str(&code), "-o", str(&json), "--losses", "64"]).ok();
    let mut profile = Profile::read(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let usage = profile.texts.remove("tale").unwrap();
    profile.texts.insert(HOSTILE.to_owned(), usage);
    std::fs::write(&json, profile.to_json().unwrap()).unwrap();
    let html = tiny.path("page.html");
    hotset(&["profile", str(&json), "--html", str(&html)]).ok();
    (profile, std::fs::read_to_string(html).unwrap())
}

#[test]
fn a_page_stands_alone() {
    let tiny = Tiny::new();
    let (_, page) = page(&tiny);
    assert_eq!(page.matches("</script>").count(), 2, "a name has ended the data");
    assert!(page.contains("Content-Security-Policy") && page.contains("default-src 'none'"));
    for link in ["src=\"", "href=", "@import", "url(", "https://"] {
        assert!(!page.contains(link), "{link}");
    }
    assert!(page.contains("{{js}}"), "a name is not a place to fill");
}

#[test]
fn what_cannot_be_compared() {
    let tiny = Tiny::new();
    let text = tiny.file("text.txt", TALE);
    let [a, b, html] = ["a.json", "b.json", "page.html"].map(|n| tiny.path(n));
    hotset(&["profile", DEMO, "--text", str(&text), "-o", str(&a)]).ok();
    let mut other = Profile::read(&std::fs::read_to_string(&a).unwrap()).unwrap();
    other.texts.values_mut().for_each(|u| u.steps.truncate(1));
    other.texts.values_mut().for_each(|u| u.steps[0].next.clear());
    std::fs::write(&b, other.to_json().unwrap()).unwrap();
    assert!(hotset(&["profile", str(&a), str(&b), "--html", str(&html)]).error().contains("different experts"));
    other.texts.clear();
    std::fs::write(&b, other.to_json().unwrap()).unwrap();
    assert!(hotset(&["profile", str(&b), "--html", str(&html)]).error().contains("nothing to show"));
    assert!(!html.exists());
    hotset(&["profile", str(&a), str(&a), "--html", str(&html)]).ok();
    assert!(std::fs::read_to_string(&html).unwrap().contains("molm-demo B"), "twins are told apart");
}

#[test]
fn a_browser_draws_it() {
    let Some(browser) = browser() else { return };
    let tiny = Tiny::new();
    let (profile, page) = page(&tiny);
    let file = tiny.file("driven.html", page.replace("</body>", &format!("{DRIVER}</body>")));
    for scheme in ["1", "0"] {
        let (dom, console) = open(&browser, &tiny, &file, scheme);
        assert!(console.is_empty(), "the console says: {console:?}");
        assert!(dom.contains("<title>Expert use of molm-demo</title>"), "the title is {:?}", between(&dom, "<title>", "</title>"));
        assert!(!dom.contains("<img"), "a name has become an element");
        let heard = between(&dom, "<pre id=\"heard\">", "</pre>");
        // The bad name is the first: down from the first cell and one to the right: the second layer's second most used expert.
        let step = &profile.texts[HOSTILE].steps[2];
        let mut uses = step.selections.clone();
        uses.sort_unstable_by(|a, b| b.cmp(a));
        assert!(heard.starts_with(&step.name) && heard.contains(&format!("chosen for {} of", uses[1])), "{heard}");
        assert!(heard.contains("rank 2 of 8"), "{heard}");
        assert!(heard.contains("best 100 % of experts do\n100.0 %"), "{heard}");
        assert!(heard.contains("of the more used half in common"), "{heard}");
        // Two of eight or sixteen rows of numbers are there, and the measured losses.
        let base = format!("{:.4} (+0.00 %)", profile.losses.as_ref().unwrap().base);
        assert!(dom.contains(&base), "{base} is not in the table of sizes");
        assert!(dom.matches("<canvas").count() >= 6 && dom.matches("<path").count() >= 5 && dom.matches("<td>").count() > 12 * 8);
    }
}

/// The text between two others.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    text.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map_or("", |(found, _)| found)
}

/// The page as the browser has it after a moment, and what was written to its console. `scheme` is 0 for dark, 1 for light.
fn open(browser: &str, tiny: &Tiny, file: &Path, scheme: &str) -> (String, Vec<String>) {
    let data = tiny.path("browser");
    let flags =
        ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000", "--dump-dom"];
    let mut command = Command::new(browser);
    command.args(flags).arg(format!("--user-data-dir={}", str(&data))).arg(format!("--blink-settings=preferredColorScheme={scheme}"));
    let done = command.arg(format!("file://{}", str(file))).output().unwrap();
    let console = String::from_utf8_lossy(&done.stderr).lines().filter(|l| l.contains("CONSOLE")).map(str::to_owned).collect();
    (String::from_utf8_lossy(&done.stdout).into_owned(), console)
}

/// A browser that runs without a screen. Continuous integration must have one.
fn browser() -> Option<String> {
    let works = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    let found = ["chromium", "chromium-browser", "google-chrome", "chrome"].into_iter().find(works);
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "there is no Chromium; install chromium");
        // Written past the capture of test output: whoever runs the tests must see it.
        let _ =
            writeln!(std::io::stderr(), "NOT CHECKED: that a browser draws the page about a profile, because this machine has no Chromium");
    }
    found.map(str::to_owned)
}
