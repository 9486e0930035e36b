//! The page for people, at `/`.
//!
//! # Why
//!
//! Whoever starts a server wants to see it answer, and to see what a receipt says. The page needs nothing but this server: no framework,
//! no build, no other host.
//!
//! # How
//!
//! 1. The page, its style and its script are put together into one document, once.
//! 2. The policy that goes with it lets exactly this style and this script run, by their digests, and lets them reach this server only.
//!    Should an answer of a model ever come to stand in the page as markup, nothing in it would run.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

static DOCUMENT: LazyLock<String> =
    LazyLock::new(|| include_str!("page.html").replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT));

/// What the page may do.
static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let only = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        only(SCRIPT),
        only(STYLE)
    );
    HeaderValue::try_from(policy).ok()
});

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    (header::CACHE_CONTROL, "no-cache"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// A page to talk with the models, and to look at receipts.
#[utoipa::path(
    get, path = "/", tag = "operation",
    responses((status = 200, description = "One document of HTML, with all that it needs", content_type = "text/html", body = String))
)]
pub(super) async fn page() -> Response {
    let mut response = Body::from(DOCUMENT.as_str()).into_response();
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Some(policy) = &*POLICY {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy.clone());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_of_what_stands_in_the_page() {
        let between = |begin: &str, end: &str| {
            let parts: Vec<&str> = DOCUMENT.split(begin).collect();
            assert_eq!(parts.len(), 2, "{begin}");
            parts[1].split_once(end).unwrap().0
        };
        let policy = POLICY.clone().unwrap();
        let policy = policy.to_str().unwrap();
        for inside in [between("<style>", "</style>"), between("<script>", "</script>")] {
            assert!(policy.contains(&STANDARD.encode(Sha256::digest(inside))));
        }
        // Nothing is loaded from anywhere, and no attribute is a script or a style.
        for never in ["src=", "@import", "url(", "https://", " style=\"", " onclick=", "innerHTML"] {
            assert!(!DOCUMENT.contains(never), "{never}");
        }
    }
}
