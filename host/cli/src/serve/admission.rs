//! Who is let in, and how many at once.
//!
//! # How
//!
//! 1. Without keys, only who names this machine by an address or as `localhost` is answered: a page in a browser that has a name of
//!    its own lead here (DNS rebinding) does not.
//! 2. With keys, only who sends one; but anybody may ask whether the server is well, for the description of its API and for
//!    its page.
//! 3. A request that is computed for takes one of a bounded number of places, until its answer has been written or its work has ended.

use super::Server;
use super::error::ApiError;
use super::keys::number;
use super::metrics::Refused;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// A place, and whose it is. Clones share the place.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    client: u64,
    _place: Arc<OwnedSemaphorePermit>,
}

impl Admission {
    /// The one that a request was given.
    pub(super) fn of(parts: &Parts) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| ApiError::internal("a request came in without a place"))
    }

    /// A number for the client: requests of different ones take turns.
    pub(super) const fn client(&self) -> u64 {
        self.client
    }

    /// Compute something that takes long, away from the threads that serve. The place is kept until it is done, even if the client
    /// leaves.
    pub(super) async fn compute<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let place = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let value = f();
            drop(place);
            value
        });
        done.await.map_err(|error| ApiError::internal(&error.to_string()))
    }
}

/// Beneath this are receipts.
const RECEIPTS: &str = "/v1/receipts/";

/// What everybody may ask for.
const OPEN: [&str; 3] = ["/", "/healthz", "/openapi.json"];

/// Let a request in or refuse it, and count it.
pub(super) async fn admit(State(server): State<Arc<Server>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (method, route) = (request.method().clone(), route(request.uri()));
    let mut response = match place(&server, &mut request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    server.counters.answered(&method, route, response.status(), began.elapsed());
    if let Ok(id) = HeaderValue::try_from(format!("req_{}", super::answer::fresh_id())) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

fn place(server: &Server, request: &mut Request) -> Result<(), ApiError> {
    let headers = request.headers();
    if server.named_only && !names_this_machine(headers) {
        server.counters.refused(Refused::Host);
        let message = "the server has no keys: it is asked at its address or as `localhost`, not by another name";
        return Err(ApiError::new(StatusCode::FORBIDDEN, message).code("wrong_host"));
    }
    let client = match (&server.keys, key(headers)) {
        _ if OPEN.contains(&request.uri().path()) => return Ok(()),
        (None, _) => of_address(request.extensions().get::<Peer>()),
        (Some(keys), Some(key)) => match keys.holder(key) {
            Some(client) => client,
            None => return Err(unknown(server, "the API key is not known here")),
        },
        (Some(_), None) => {
            return Err(unknown(server, "give an API key: Authorization: Bearer KEY"));
        }
    };
    // Receipts are computed when they are asked for.
    if request.method() == Method::POST || request.uri().path().starts_with(RECEIPTS) {
        let Ok(place) = Arc::clone(&server.places).try_acquire_owned() else {
            server.counters.refused(Refused::Busy);
            let message = format!("{} requests are being answered already: try again in 1 s", server.most);
            return Err(ApiError::busy(message, Duration::from_secs(1)));
        };
        request.extensions_mut().insert(Admission { client, _place: Arc::new(place) });
    }
    Ok(())
}

fn unknown(server: &Server, message: &str) -> ApiError {
    server.counters.refused(Refused::Key);
    ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key")
}

fn key(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// A number for whoever is at this address. Of IPv6, the network: one client has all of its addresses.
fn of_address(peer: Option<&Peer>) -> u64 {
    let ip = peer.map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0.ip().to_canonical());
    match ip {
        IpAddr::V4(ip) => number(&blake3::hash(&ip.octets())),
        IpAddr::V6(ip) => number(&blake3::hash(ip.octets().get(..8).unwrap_or_default())),
    }
}

/// Whether the request was sent to an address or to `localhost`.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.rsplit_once(':') {
        // The colons of an IPv6 address are inside brackets.
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

/// The paths that requests are counted by.
fn route(uri: &Uri) -> &'static str {
    let known = super::router::PATHS.into_iter().find(|known| *known == uri.path());
    known.unwrap_or(match uri.path() {
        path if path.starts_with("/v1/models/") => "/v1/models/{model}",
        path if path.starts_with(RECEIPTS) => "/v1/receipts/{receipt}",
        _ => "other",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn names_of_others_do_not_lead_here() {
        for (host, right) in [
            ("localhost", true),
            ("LocalHost:8080", true),
            ("127.0.0.1:8080", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("192.168.1.5", true),
            ("evil.example", false),
            ("evil.example:8080", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:80", false),
            ("", false),
        ] {
            assert_eq!(names_this_machine(&headers(header::HOST, host)), right, "{host}");
        }
        assert!(!names_this_machine(&HeaderMap::new()));
    }

    #[test]
    fn keys_come_as_bearer() {
        let of = |value: &str| key(&headers(header::AUTHORIZATION, value)).map(str::to_owned);
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer  abc").as_deref(), Some("abc"));
        assert_eq!((of("Basic abc"), of("abc")), (None, None));
    }

    #[test]
    fn clients_are_told_apart_by_address() {
        let of = |address: &str| of_address(Some(&Peer(SocketAddr::new(address.parse().unwrap(), 1))));
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }

    #[test]
    fn routes_are_few() {
        let of = |path: &str| route(&path.parse().unwrap());
        assert_eq!(of("/v1/models"), "/v1/models");
        assert_eq!(of("/v1/models/a"), "/v1/models/{model}");
        assert_eq!(of("/v1/receipts/a/audit"), "/v1/receipts/{receipt}");
        assert_eq!(of("/v1/modelsx"), "other");
        assert_eq!(of("/x?y"), "other");
    }
}
