//! HTTP requests to a server that bypass OpenDAL.
//!
//! The protocol is HTTP/1.0, so that the end of the connection ends the answer. Request and answer
//! are kept in memory. Signatures are part of the target.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use cenotaph::Env;

/// Time limit for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answer of a server.
#[derive(Debug)]
pub struct Answer {
    /// Status line and headers.
    pub head: String,
    /// Body.
    pub body: String,
}

impl Answer {
    /// Returns `true` if the status begins with `2`.
    pub fn is_success(&self) -> bool {
        self.head
            .split(' ')
            .nth(1)
            .is_some_and(|code| code.starts_with('2'))
    }

    /// Returns the value of a header. Names are compared without regard to case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self
            .head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'));
        headers
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }
}

/// Sends a request without a body to this port. Panics unless the answer is a success.
pub async fn ask(port: u16, method: &'static str, target: String) -> Answer {
    let question = target.clone();
    let answer = send(port, method, target, Vec::new()).await;
    assert!(answer.is_success(), "{method} {question}: {answer:?}");
    answer
}

/// Sends a request with this body to this port and returns the answer, error or not.
pub async fn send(port: u16, method: &'static str, target: String, body: Vec<u8>) -> Answer {
    // Blocking sockets: a request runs on a thread for blocking work.
    Env::real()
        .unwrap()
        .blocking(move || exchange(port, method, &target, &body))
        .await
        .unwrap()
}

fn exchange(port: u16, method: &str, target: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {length}\r\n\r\n"
    );
    // A single write: a server that answers after the head may close before the rest arrives.
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    // HTTP/1.0: the server closes the connection after its answer.
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .expect("an answer has headers");
    Answer {
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// Escapes the characters `+`, `/` and `=` of Base64 for use in a query.
pub fn escaped(base64: &str) -> String {
    base64
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D")
}

/// Returns the text between each occurrence of `from` and the following `to`.
pub fn between<'a>(text: &'a str, from: &'a str, to: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(from)
        .skip(1)
        .filter_map(move |rest| rest.split_once(to))
        .map(|(found, _)| found)
}
