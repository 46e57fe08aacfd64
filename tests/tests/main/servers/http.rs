//! What a test asks of a server itself, past OpenDAL: one request without a body, and the whole answer to it.
//!
//! HTTP/1.0, so that the end of the connection ends the answer. Deliberately not here: signatures, which are part of the
//! target, and anything that a blob would need.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use cenotaph::Env;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server has answered.
pub(super) struct Answer {
    /// Its first line.
    pub(super) status: String,
    /// All of it after the headers.
    pub(super) body: String,
}

/// Asks the server on this port, and insists on an answer that begins with `2`: an error answers no question.
pub(super) async fn ask(port: u16, method: &'static str, target: String) -> Answer {
    let question = target.clone();
    let answer = Env::real().unwrap().blocking(move || exchange(port, method, &target)).await.unwrap();
    let code = answer.status.split(' ').nth(1);
    assert!(code.is_some_and(|code| code.starts_with('2')), "{method} {question}: {} {}", answer.status, answer.body);
    answer
}

fn exchange(port: u16, method: &str, target: &str) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("{method} {target} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has headers");
    Answer { status: head.lines().next().unwrap_or_default().to_owned(), body: body.to_owned() }
}

/// A value within a query: what Base64 has beyond letters and digits, escaped.
pub(super) fn escaped(base64: &str) -> String {
    base64.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}

/// Whatever stands between these two, each time they occur.
pub(super) fn between<'a>(text: &'a str, from: &'a str, to: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(from).skip(1).filter_map(move |rest| rest.split_once(to)).map(|(found, _)| found)
}
