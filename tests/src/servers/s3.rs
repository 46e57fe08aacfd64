//! Servers that speak S3: moto, and the gateway of Ceph, which is the real thing on a disk in
//! memory.
//!
//! Buckets are made, and multipart uploads listed and completed, with a query that is signed once
//! and for all (version 2 of Amazon's signatures:
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/RESTAuthentication.html>), so that no
//! clock and no header takes part in it.

use std::fmt::Write;
use std::io;
use std::path::PathBuf;

use cenotaph::Operator;
use reqsign_core::hash::base64_hmac_sha1;

use super::http::{Answer, ask, between, escaped, send};
use super::launch::{Running, find, free_port};
use super::layered;

const KEY: &str = "key";
const SECRET: &str = "secret";
/// When signed queries end: in the year 2100.
const EXPIRES: &str = "4102444800";
/// How Ceph is brought up: a monitor, one disk in memory, a user, the gateway.
const CEPH: &str = include_str!("ceph.sh");
/// Fewest bytes of a part, the last one aside, as Amazon has it.
pub const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;

/// A server that speaks S3.
pub struct S3(Running);

impl S3 {
    /// Whether moto is here.
    ///
    /// # Errors
    /// That it is not.
    pub fn moto_is_here() -> io::Result<PathBuf> {
        find("moto_server")
    }

    /// Starts moto. It takes parts of so many bytes or more.
    pub async fn moto(program: PathBuf, part_bytes_min: u64) -> Self {
        let moto = Running::start("moto", |command, port, _| {
            command
                .arg(&program)
                .args(["-H", "127.0.0.1", "-p", &port.to_string()]);
            command.env("S3_UPLOAD_PART_MIN_SIZE", part_bytes_min.to_string());
            // What it derives from that, and could become negative.
            command.env(
                "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE",
                (PART_BYTES_MIN - 1024).to_string(),
            );
        });
        Self(moto.await)
    }

    /// Whether all programs are here that Ceph consists of.
    ///
    /// # Errors
    /// Which one is not.
    pub fn ceph_is_here() -> io::Result<()> {
        let programs = [
            "ceph",
            "ceph-mon",
            "ceph-osd",
            "monmaptool",
            "radosgw",
            "radosgw-admin",
        ];
        programs
            .into_iter()
            .try_for_each(|program| find(program).map(drop))
    }

    /// Starts Ceph. It takes parts of so many bytes or more.
    pub async fn ceph(part_bytes_min: u64) -> Self {
        let ceph = Running::start("ceph", |command, port, directory| {
            let ports = [port, free_port()].map(|port| port.to_string());
            command
                .args(["sh", "-c", CEPH, "ceph"])
                .arg(directory)
                .args(ports);
            command.args([KEY, SECRET, &part_bytes_min.to_string()]);
        });
        Self(ceph.await)
    }

    /// Makes a bucket, and gives access to it.
    pub async fn bucket(&self, name: &str) -> Operator {
        ask(self.0.port(), "PUT", signed("PUT", &format!("/{name}"))).await;
        let builder = opendal::services::S3::default()
            .endpoint(&format!("http://127.0.0.1:{}", self.0.port()))
            .bucket(name)
            .region("us-east-1")
            .access_key_id(KEY)
            .secret_access_key(SECRET)
            .disable_config_load()
            .disable_ec2_metadata();
        layered(Operator::new(builder).unwrap())
    }

    /// The keys to which something is uploaded in parts that are not put together yet.
    pub async fn open_uploads(&self, bucket: &str) -> Vec<String> {
        let answer = ask(
            self.0.port(),
            "GET",
            signed("GET", &format!("/{bucket}?uploads")),
        )
        .await
        .body;
        assert!(
            answer.contains("<ListMultipartUploadsResult") && !answer.contains("<IsTruncated>true"),
            "{answer}"
        );
        between(&answer, "<Key>", "</Key>")
            .map(str::to_owned)
            .collect()
    }

    /// Begins an upload in parts; its id.
    pub async fn begin_upload(&self, bucket: &str, key: &str) -> String {
        let answer = ask(
            self.0.port(),
            "POST",
            signed("POST", &format!("/{bucket}/{key}?uploads")),
        )
        .await
        .body;
        between(&answer, "<UploadId>", "</UploadId>")
            .next()
            .expect("an upload has an id")
            .to_owned()
    }

    /// Uploads a part; its etag.
    pub async fn upload_part(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        number: u32,
        bytes: Vec<u8>,
    ) -> String {
        let target = signed(
            "PUT",
            &format!("/{bucket}/{key}?partNumber={number}&uploadId={upload}"),
        );
        let answer = send(self.0.port(), "PUT", target, bytes).await;
        assert!(answer.is_success(), "part {number}: {answer:?}");
        answer
            .header("ETag")
            .expect("a part has an etag")
            .trim_matches('"')
            .to_owned()
    }

    /// Puts an object together from these parts; whatever is answered. A refusal may come with a
    /// status of success.
    pub async fn complete_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        parts: &[(u32, String)],
    ) -> Answer {
        let mut list = String::from("<CompleteMultipartUpload>");
        for (number, etag) in parts {
            let part =
                format_args!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
            list.write_fmt(part)
                .expect("a string takes what it is given");
        }
        list.push_str("</CompleteMultipartUpload>");
        let target = signed("POST", &format!("/{bucket}/{key}?uploadId={upload}"));
        send(self.0.port(), "POST", target, list.into_bytes()).await
    }
}

/// A target with a signature. Of its query, what is no sub-resource must not be there, and the
/// others are in order.
fn signed(method: &str, resource: &str) -> String {
    let text = format!("{method}\n\n\n{EXPIRES}\n{resource}");
    let signature = escaped(&base64_hmac_sha1(SECRET.as_bytes(), text.as_bytes()));
    let separator = if resource.contains('?') { '&' } else { '?' };
    format!("{resource}{separator}AWSAccessKeyId={KEY}&Expires={EXPIRES}&Signature={signature}")
}
