//! A real Chromium without a window, told what to do over a pipe (the DevTools protocol: messages of JSON that end with a null byte).

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// A browser with one page, ended with the test.
pub(crate) struct Chromium {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    session: Option<String>,
    calls: u64,
    /// What happened in the page: the protocol's events.
    pub(crate) events: Vec<Value>,
    pub(crate) files: tempfile::TempDir,
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where one is: `OSTRAKON_CHROMIUM`, or the one that `tests/fetch-chromium.sh` fetched.
fn locate() -> Option<PathBuf> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/chromium/chromium");
    let named = std::env::var_os("OSTRAKON_CHROMIUM").map(PathBuf::from);
    named.into_iter().chain([fetched]).find(|file| file.is_file())
}

impl Chromium {
    /// A browser with an empty page. None, and that is said, where there is no browser, unless `OSTRAKON_REQUIRE_CHROMIUM` is 1.
    pub(crate) fn start() -> Option<Self> {
        let Some(browser) = locate() else {
            let required = std::env::var("OSTRAKON_REQUIRE_CHROMIUM").is_ok_and(|value| value == "1");
            assert!(!required, "there is no Chromium: `tests/fetch-chromium.sh build/chromium` fetches one");
            // Past the capture of the test's output: it must be seen.
            let _ = writeln!(std::io::stderr(), "NOT TESTED: the page, because there is no Chromium here");
            return None;
        };
        let files = tempfile::tempdir().unwrap();
        // It reads from its descriptor 3 and writes to 4.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null"]).arg(&browser);
        command.args([
            "--headless",
            "--remote-debugging-pipe",
            "--no-sandbox",
            "--no-zygote",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--force-color-profile=srgb",
        ]);
        command.arg(format!("--user-data-dir={}", files.path().join("profile").display())).arg("about:blank");
        // Libraries and fonts that come with a browser that was fetched.
        if browser.with_file_name("fonts.conf").is_file() {
            command.env("LD_LIBRARY_PATH", browser.with_file_name("lib"));
            command.env("FONTCONFIG_FILE", browser.with_file_name("fonts.conf"));
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (to, mut out) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (sender, from) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while out.read_until(0, &mut message).is_ok_and(|read| read > 1) {
                message.pop();
                if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    break;
                }
                message.clear();
            }
        });
        let mut chromium = Self { child, to, from, session: None, calls: 0, events: Vec::new(), files };
        let target = chromium.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let attached = chromium.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        chromium.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            chromium.call(&format!("{domain}.enable"), json!({}));
        }
        Some(chromium)
    }

    /// Have it do something.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let came = self.from.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{method}: {error}"));
            if came["id"] == self.calls {
                assert!(came.get("error").is_none(), "{method}: {came}");
                return came["result"].clone();
            }
            if came.get("method").is_some() {
                self.events.push(came);
            }
        }
    }

    /// What an expression of JavaScript gives in the page.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let result = self.call("Runtime.evaluate", params);
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// The text of what a selector finds first.
    pub(crate) fn text(&mut self, selector: &str) -> String {
        let text = self.value(&format!("document.querySelector({})?.textContent ?? null", json!(selector)));
        text.as_str().unwrap_or_else(|| panic!("there is no {selector}")).to_owned()
    }

    /// Wait until this is so in the page.
    pub(crate) fn until(&mut self, condition: &str) {
        let began = Instant::now();
        while self.value(condition) != json!(true) {
            let body = if began.elapsed() < PATIENCE { None } else { Some(self.text("body")) };
            assert!(body.is_none(), "{condition}: {body:?}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Go to a page of a server.
    pub(crate) fn open(&mut self, address: &str) {
        self.call("Page.navigate", json!({ "url": address }));
        self.until("document.readyState === 'complete'");
    }

    /// Type a text where the cursor is.
    pub(crate) fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Press a key as a person does.
    pub(crate) fn press(&mut self, key: &str) {
        let code = match key {
            "Enter" => 13,
            "Tab" => 9,
            "ArrowRight" => 39,
            _ => panic!("{key}"),
        };
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Click in the middle of what a selector finds first.
    pub(crate) fn click(&mut self, selector: &str) {
        let place = self.value(&format!(
            "(() => {{ const found = document.querySelector({}); found.scrollIntoView({{block: 'center', behavior: 'instant'}}); \
             const box = found.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()",
            json!(selector)
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// What went wrong in the page: exceptions, errors of the console.
    pub(crate) fn errors(&self) -> Vec<&Value> {
        let wrong = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => event["params"]["entry"]["level"] == "error",
            Some("Runtime.consoleAPICalled") => event["params"]["type"] == "error",
            _ => false,
        };
        self.events.iter().filter(wrong).collect()
    }

    /// All that the page asked for.
    pub(crate) fn requests(&self) -> Vec<&str> {
        let sent = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        sent.map(|event| event["params"]["request"]["url"].as_str().unwrap()).collect()
    }

    /// A picture of the page, in the folder that `OSTRAKON_SCREENSHOTS` names, if it does.
    pub(crate) fn picture(&mut self, name: &str, (width, height): (u32, u32), dark: bool) {
        let Some(folder) = std::env::var_os("OSTRAKON_SCREENSHOTS").map(PathBuf::from) else { return };
        let phone = width < 600;
        let screen = json!({"width": width, "height": height, "deviceScaleFactor": 2, "mobile": phone});
        self.call("Emulation.setDeviceMetricsOverride", screen);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
        let data = self.call("Page.captureScreenshot", json!({"format": "png"}))["data"].clone();
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, data.as_str().unwrap()).unwrap();
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), bytes).unwrap();
    }
}
