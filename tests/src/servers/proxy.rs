//! A proxy in front of a PostgreSQL server that cuts connections at their commit.
//!
//! ```text
//! client ──COMMIT──> proxy           before: closed, the server never sees the commit
//! client ──COMMIT──> proxy ──> server ──done──> proxy   after: closed, the client never sees it
//! client ──COMMIT──> proxy ──> server                   during: closed for the client at once, while
//!                                                       the server works on
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use cenotaph::Env;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Command of a client that commits, and answer of the server that has done so. Also the end of the
/// answer of a server that has rolled back.
const COMMIT: &[u8] = b"COMMIT\0";
const ROLLBACK: &[u8] = b"ROLLBACK\0";

/// Odd number close to 2^64 divided by the golden ratio: the top bits of its multiples are evenly
/// distributed (Knuth, The Art of Computer Programming, volume 3, section 6.4).
const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Size of the buffer for each direction.
const BUFFER_BYTES: usize = 64 * 1024;

/// A running proxy. It ends with the runtime.
#[derive(Clone)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    target: AtomicU16,
    /// Time by which answers of the server are delayed, in milliseconds.
    delay_ms: AtomicU64,
    cuts: AtomicBool,
    commits: AtomicU64,
    before: AtomicU64,
    after: AtomicU64,
    during: AtomicU64,
}

/// Treatment of a commit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    None,
    Before,
    After,
    During,
}

impl Proxy {
    /// Starts a proxy for the server at this port on localhost. It passes everything on.
    pub async fn start(target: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State::default());
        state.target.store(target, Ordering::SeqCst);
        let env = Env::real().map_err(io::Error::other)?;
        let accepting = Arc::clone(&state);
        let spawner = env.clone();
        env.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&accepting);
                spawner.spawn(async move {
                    // The end of a connection is no failure of the proxy.
                    drop(state.relay(client).await);
                });
            }
        });
        Ok(Self { port, state })
    }

    /// Returns the port on localhost on which the proxy listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Passes new connections to another server.
    pub fn redirect(&self, target: u16) {
        self.state.target.store(target, Ordering::SeqCst);
    }

    /// Delays each answer of the server on new connections. The time of a request divided by this delay
    /// is then the number of its round trips.
    pub fn delay(&self, delay: Duration) {
        let delay_ms = u64::try_from(delay.as_millis()).expect("a short delay");
        self.state.delay_ms.store(delay_ms, Ordering::SeqCst);
    }

    /// Cuts of four commits one before, one after and one while the server has it, or none.
    pub fn cut(&self, cuts: bool) {
        self.state.cuts.store(cuts, Ordering::SeqCst);
    }

    /// Returns the number of connections that were cut before, after and during their commit.
    pub fn cuts(&self) -> [u64; 3] {
        let State {
            before,
            after,
            during,
            ..
        } = &*self.state;
        [before, after, during].map(|number| number.load(Ordering::SeqCst))
    }
}

impl State {
    async fn relay(&self, mut client: TcpStream) -> io::Result<()> {
        let target = self.target.load(Ordering::SeqCst);
        let mut server = TcpStream::connect(("127.0.0.1", target)).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let delay = Duration::from_millis(self.delay_ms.load(Ordering::SeqCst));
        if !delay.is_zero() {
            return delayed(client, server, delay).await;
        }
        let mut request = vec![0; BUFFER_BYTES];
        let mut answer = vec![0; BUFFER_BYTES];
        let mut cut = Cut::None;
        loop {
            tokio::select! {
                read = client.read(&mut request) => {
                    let request = &request[..read?];
                    if request.is_empty() {
                        return Ok(());
                    }
                    if cut == Cut::None && contains(request, COMMIT) {
                        cut = self.next();
                    }
                    if cut == Cut::Before {
                        self.before.fetch_add(1, Ordering::SeqCst);
                        return Ok(());
                    }
                    server.write_all(request).await?;
                    if cut == Cut::During {
                        self.during.fetch_add(1, Ordering::SeqCst);
                        drop(client);
                        return drain(server).await;
                    }
                }
                read = server.read(&mut answer) => {
                    let answer = &answer[..read?];
                    if answer.is_empty() {
                        return Ok(());
                    }
                    if cut == Cut::After {
                        if contains(answer, COMMIT) {
                            self.after.fetch_add(1, Ordering::SeqCst);
                            return Ok(());
                        }
                        if contains(answer, ROLLBACK) {
                            return Ok(());
                        }
                        continue;
                    }
                    client.write_all(answer).await?;
                }
            }
        }
    }

    fn next(&self) -> Cut {
        if !self.cuts.load(Ordering::SeqCst) {
            return Cut::None;
        }
        // Scattered: a fixed period could meet the first attempt of every commit.
        let number = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        match number.wrapping_mul(SCATTER) >> 62 {
            0 => Cut::Before,
            1 => Cut::After,
            2 => Cut::During,
            _ => Cut::None,
        }
    }
}

/// Passes everything on, and the answers of the server later. Answers to requests that were sent
/// together are late together.
async fn delayed(client: TcpStream, server: TcpStream, delay: Duration) -> io::Result<()> {
    let env = Env::real().map_err(io::Error::other)?;
    let (mut requests, mut to_client) = client.into_split();
    let (mut answers, mut to_server) = server.into_split();
    let (late, mut due) = mpsc::unbounded_channel();
    let collect = async {
        let mut answer = vec![0; BUFFER_BYTES];
        loop {
            let bytes = answers.read(&mut answer).await?;
            if bytes == 0 {
                return io::Result::Ok(());
            }
            let at = env.monotonic() + delay;
            drop(late.send((at, answer[..bytes].to_vec())));
        }
    };
    let deliver = async {
        while let Some((at, answer)) = due.recv().await {
            env.sleep(at.saturating_sub(env.monotonic())).await;
            to_client.write_all(&answer).await?;
        }
        io::Result::Ok(())
    };
    tokio::select! {
        ended = tokio::io::copy(&mut requests, &mut to_server) => ended.map(drop),
        ended = collect => ended,
        ended = deliver => ended,
    }
}

/// Keeps a connection to the server until its commit is done.
async fn drain(mut server: TcpStream) -> io::Result<()> {
    let mut answer = vec![0; BUFFER_BYTES];
    loop {
        let bytes = server.read(&mut answer).await?;
        let answer = &answer[..bytes];
        if bytes == 0 || contains(answer, COMMIT) || contains(answer, ROLLBACK) {
            return Ok(());
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
