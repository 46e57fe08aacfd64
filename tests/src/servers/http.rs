//! What is asked of a server itself, past OpenDAL: one request, and the whole answer to it.
//!
//! HTTP/1.0, so that the end of the connection ends the answer. Deliberately not here: signatures,
//! which are part of the target, and streams: what is sent and what comes back fit into memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use cenotaph::Env;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server has answered.
#[derive(Debug)]
pub struct Answer {
    /// Its first line, and its headers.
    pub head: String,
    /// All of it after the headers.
    pub body: String,
}

impl Answer {
    /// Whether its status begins with `2`.
    pub fn is_success(&self) -> bool {
        self.head
            .split(' ')
            .nth(1)
            .is_some_and(|code| code.starts_with('2'))
    }

    /// The value of a header. Names are compared without regard to case.
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

/// Asks the server on this port without a body, and insists on success: an error answers no
/// question.
pub async fn ask(port: u16, method: &'static str, target: String) -> Answer {
    let question = target.clone();
    let answer = send(port, method, target, Vec::new()).await;
    assert!(answer.is_success(), "{method} {question}: {answer:?}");
    answer
}

/// Sends this body to the server on this port; whatever it answers.
pub async fn send(port: u16, method: &'static str, target: String, body: Vec<u8>) -> Answer {
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
    // In one piece: a server that has answered after the head may close before the rest arrives.
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
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

/// A value within a query: what Base64 has beyond letters and digits, escaped.
pub fn escaped(base64: &str) -> String {
    base64
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D")
}

/// Whatever stands between these two, each time they occur.
pub fn between<'a>(text: &'a str, from: &'a str, to: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(from)
        .skip(1)
        .filter_map(move |rest| rest.split_once(to))
        .map(|(found, _)| found)
}
