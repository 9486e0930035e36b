//! The page in a real browser: a conversation, its receipt and the verdict, similarities, a key; and that nothing of others becomes markup.

use crate::chromium::Chromium;
use crate::server::{Server, command};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ostrakon_tests::{packed, tiny_writer};
use serde_json::json;
use std::time::{Duration, Instant};

const DESKTOP: (u32, u32) = (1100, 900);
const PHONE: (u32, u32) = (390, 844);
/// What would be seen if it were taken for markup.
const MARKUP: &str = "<img src=x onerror='window.taken=1'><b>bold</b>";
const ANSWERED: &str =
    "!document.querySelector('article.busy') && !!document.querySelector('article.assistant .facts button')";

/// Nothing went wrong, and nobody else was asked.
fn expect_quiet(page: &Chromium, address: &str) {
    assert_eq!(page.errors(), Vec::<&serde_json::Value>::new());
    let own = |url: &&str| {
        url.starts_with(address) || url.starts_with("data:") || url.starts_with("blob:") || *url == "about:blank"
    };
    let requests = page.requests();
    assert_eq!(requests.iter().filter(|url| !own(url)).collect::<Vec<_>>(), Vec::<&&str>::new());
    assert!(requests.iter().any(|url| url.ends_with("/v1/models")), "requests are seen: {requests:?}");
}

#[test]
fn a_conversation_its_receipt_and_the_verdict() {
    let Some(mut page) = Chromium::start() else { return };
    let writer = packed::smollm2();
    let server = Server::start(&[], |_| vec![writer.clone(), packed::minilm(1)]);
    let address = format!("http://{}/", server.address());
    page.open(&address);
    page.until("!document.querySelector('#chat').hidden");
    page.picture("empty", DESKTOP, false);

    // Short, and the same each time.
    page.value("for (const [id, value] of [['temperature', 0], ['tokens', 40], ['seed', 7]]) document.getElementById(id).value = value");
    assert_eq!(page.value("document.activeElement.id"), "message", "one can type at once");
    let question = "What is the capital of France?";
    page.write(question);
    page.press("Enter");
    page.until(ANSWERED);
    let answer = page.text("article.assistant .text");
    let asked = json!({"model": server.ready["models"][0]["name"], "messages": [{"role": "user", "content": question}],
                       "temperature": 0, "max_tokens": 40, "seed": 7});
    let same = server.ask("/v1/chat/completions", &asked);
    assert_eq!(answer, same["choices"][0]["message"]["content"].as_str().unwrap());
    let facts = page.text("article.assistant .facts");
    assert!(facts.contains("tokens/s") && facts.contains("seed 7"), "{facts}");

    // The receipt: who computed what.
    page.click("article.assistant .facts button");
    page.until("!!document.querySelector('.receipt')");
    let receipt = page.text(".receipt");
    for part in ["embeddings … head (32)", "cpu", "exact", "✓ holds", "✓ signature holds", "temperature 0.00, seed 7"]
    {
        assert!(receipt.contains(part), "{part}: {receipt}");
    }
    // Its verdict, by both ways, and who says so.
    for (button, how) in [(2, "run again"), (3, "against a transcript")] {
        page.click(&format!(".receipt .row button:nth-child({button})"));
        page.until(&format!("document.querySelector('.verdict')?.textContent.includes('{how}') ?? false"));
        let verdict = page.text(".verdict");
        for part in ["accept", "32 of 32 blocks", "Checked by the server that computed it", "ostrakon audit receipt-"] {
            assert!(verdict.contains(part), "{part}: {verdict}");
        }
    }
    page.picture("receipt", DESKTOP, false);
    page.picture("receipt-dark", DESKTOP, true);
    page.picture("receipt-phone", PHONE, false);

    // What is saved is what the command takes.
    let downloads = page.files.path().join("downloads");
    page.call("Page.setDownloadBehavior", json!({"behavior": "allow", "downloadPath": downloads}));
    page.click(".receipt .row button:nth-child(1)");
    let began = Instant::now();
    let file = loop {
        let files = std::fs::read_dir(&downloads).into_iter().flatten().map(|file| file.unwrap().path());
        if let Some(file) = files.into_iter().find(|file| file.extension().is_some_and(|end| end == "receipt")) {
            break file;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "nothing was saved");
        std::thread::sleep(Duration::from_millis(50));
    };
    let audit =
        command().args(["audit", "--json", "--allow-unknown-signer"]).arg(file).arg("--package").arg(&writer).output();
    assert_eq!(audit.unwrap().status.code(), Some(0));

    // An answer that is stopped is computed no further. This one is always long: nothing is drawn by lot.
    page.value("document.getElementById('tokens').value = 1500");
    page.click("#message");
    page.write("Write a long story about a lighthouse.");
    page.press("Enter");
    page.until("document.querySelectorAll('article.assistant').length === 2");
    page.until("[...document.querySelectorAll('article.assistant .text')].at(-1).textContent.length > 5");
    page.picture("writing-phone-dark", PHONE, true);
    page.click("#stop");
    page.until("!document.querySelector('article.busy')");
    assert!(
        page.value("[...document.querySelectorAll('.facts')].at(-1).textContent").as_str().unwrap().contains("stopped")
    );
    server.until("it is not computed any further", |server| server.counted("ostrakon_running") == 0.0);
    expect_quiet(&page, &address);
}

#[test]
fn similarities() {
    let Some(mut page) = Chromium::start() else { return };
    let server = Server::start(&[], |files| vec![tiny_writer::package(files, 1), packed::minilm(1)]);
    let address = format!("http://{}/", server.address());
    page.open(&address);
    page.until("!document.querySelector('#chat').hidden");
    // By the keyboard alone: from the message back to the tabs.
    page.value("document.querySelector('#chat-tab').focus()");
    page.press("ArrowRight");
    assert_eq!(page.value("document.activeElement.id"), "similarity-tab");
    page.value("document.querySelector('#compare [type=submit]').focus()");
    page.press("Enter");
    page.until("document.querySelectorAll('#matrix tbody tr').length === 4");
    let cell = |row: usize, column: usize| format!("#matrix tbody tr:nth-child({row}) td:nth-child({})", column + 1);
    assert_eq!((page.text(&cell(1, 1)), page.text(&cell(4, 4))), ("1.00".into(), "1.00".into()));
    assert_eq!(page.text(&cell(1, 2)), page.text(&cell(2, 1)));
    let near: f64 = page.text(&cell(1, 2)).parse().unwrap();
    assert!((near - 0.75).abs() < 0.02, "{near}");
    page.picture("similarity", DESKTOP, false);
    page.picture("similarity-phone-dark", PHONE, true);
    page.value("document.querySelector('#texts').value = 'one'");
    page.click("#compare [type=submit]");
    page.until("document.querySelector('#matrix').textContent.includes('2 to 32 texts')");
    expect_quiet(&page, &address);
}

#[test]
fn a_key_is_asked_for_and_kept_for_the_tab() {
    let Some(mut page) = Chromium::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    std::fs::write(&file, "sk-0123456789abcdef\n").unwrap();
    let server = Server::writer(&["--api-keys", file.to_str().unwrap()]);
    page.open(&format!("http://{}/", server.address()));
    page.until("document.querySelector('#key-dialog').open && document.activeElement.id === 'key'");
    page.picture("key", DESKTOP, false);
    page.write("sk-a-wrong-key-it-is");
    page.press("Enter");
    page.until("!document.querySelector('#key-wrong').hidden");
    assert!(page.text("#key-wrong").contains("not known"));
    page.write("sk-0123456789abcdef");
    page.press("Enter");
    page.until("!document.querySelector('#chat').hidden && !document.querySelector('#key-dialog').open");
    assert_eq!(page.value("localStorage.length"), 0);
    page.write("Hello");
    page.press("Enter");
    page.until(ANSWERED);
    page.click("article.assistant .facts button");
    page.until("!!document.querySelector('.receipt')");
    // Again, without being asked.
    page.call("Page.reload", json!({}));
    page.until("document.readyState === 'complete' && !!document.querySelector('#chat') && !document.querySelector('#chat').hidden");
}

#[test]
fn nothing_of_others_becomes_markup() {
    let Some(mut page) = Chromium::start() else { return };
    let server = Server::writer(&[]);
    // A server whose every word is hostile, in place of the real one's answers; the page and its policy are the real ones.
    let models =
        json!({"object": "list", "data": [{"id": MARKUP, "object": "model", "task": "generation", "package": MARKUP}]});
    let chunk = json!({"seed": 1, "choices": [{"index": 0, "delta": {"content": MARKUP}, "finish_reason": "stop",
                                               "ostrakon": {"receipt": MARKUP}}]});
    let summary = json!({"id": MARKUP, "digest": MARKUP, "issuer": MARKUP, "signed": true, "model": MARKUP, "package": MARKUP,
        "tier": MARKUP, "legs": [{"node": MARKUP, "signed": true, "backend": MARKUP, "shards": [{"name": MARKUP, "blocks": [MARKUP]}]}]});
    let audit = json!({"id": MARKUP, "verdict": "reject", "looked_at": MARKUP, "steps": 1, "method": MARKUP, "error_bound": MARKUP,
        "timing_ms": {"load": 1, "audit": 1, "audit_cpu": 1}, "reasons": [MARKUP], "accused": {"node": MARKUP}, "notes": [MARKUP]});
    let answers = [
        ("*/v1/models", models.to_string()),
        ("*/v1/chat/completions", format!("data: {chunk}\n\ndata: [DONE]\n\n")),
        ("*/summary", summary.to_string()),
        ("*/audit", audit.to_string()),
        ("*/v1/receipts/*", "bytes".to_owned()),
    ];
    let patterns: Vec<_> = answers.iter().map(|(pattern, _)| json!({ "urlPattern": pattern })).collect();
    page.call("Fetch.enable", json!({ "patterns": patterns }));
    page.call("Page.navigate", json!({"url": format!("http://{}/", server.address())}));
    let mut answered = 0;
    let mut until = |page: &mut Chromium, condition: &str| {
        let began = Instant::now();
        while page.value(condition) != json!(true) {
            assert!(began.elapsed() < Duration::from_secs(60), "{condition}: {}", page.text("body"));
            let paused = page.events.iter().filter(|event| event["method"] == "Fetch.requestPaused");
            let paused: Vec<_> = paused.skip(answered).map(|event| event["params"].clone()).collect();
            answered += paused.len();
            for params in paused {
                let url = params["request"]["url"].as_str().unwrap();
                let ends = |pattern: &str| {
                    url.contains(pattern.trim_matches('*'))
                        && (pattern.ends_with('*') || url.ends_with(pattern.trim_matches('*')))
                };
                let body = &answers.iter().find(|(pattern, _)| ends(pattern)).unwrap().1;
                let whole =
                    json!({"requestId": params["requestId"], "responseCode": 200, "body": STANDARD.encode(body)});
                page.call("Fetch.fulfillRequest", whole);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until(&mut page, "document.querySelector('#chat-model')?.options.length === 1");
    page.write(MARKUP);
    page.press("Enter");
    until(&mut page, ANSWERED);
    page.click("article.assistant .facts button");
    until(&mut page, "!!document.querySelector('.receipt')");
    page.click(".receipt .row button:nth-child(2)");
    until(&mut page, "!!document.querySelector('.verdict')");
    for selector in [
        "#chat-model",
        "article.user",
        "article.assistant .text",
        ".receipt dl",
        ".receipt table",
        ".verdict dl",
        ".verdict code",
    ] {
        assert!(page.text(selector).contains("onerror='window.taken=1'"), "{selector}: {}", page.text(selector));
    }
    assert_eq!(page.value("document.querySelectorAll('img, b').length"), 0);
    // And if it did become markup, nothing of it would run.
    page.value("document.querySelector('#log').innerHTML += \"<img src=x onerror='window.taken=2'>\"");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(page.value("window.taken === undefined"), json!(true));
    let policy = server.get("/").header("content-security-policy").unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
}
