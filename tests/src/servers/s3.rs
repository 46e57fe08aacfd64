//! Servers that speak S3: moto, and Ceph's gateway over one disk in memory.
//!
//! Requests that bypass OpenDAL (create a bucket, list and complete multipart uploads) carry a
//! presigned query (version 2 of Amazon's signatures:
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/RESTAuthentication.html>). The signature
//! covers neither the current time nor any header.

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
/// Expiry of signed queries, in Unix seconds: the year 2100.
const EXPIRES: &str = "4102444800";
/// Script that starts Ceph: a monitor, a disk in memory, a user, the gateway.
const CEPH: &str = include_str!("ceph.sh");
/// Smallest size of a part except the last, in bytes (Amazon's limit).
pub const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;

/// A server that speaks S3.
pub struct S3(Running);

impl S3 {
    /// Finds the program of moto.
    ///
    /// # Errors
    /// `NotFound` if moto is not installed.
    pub fn find_moto() -> io::Result<PathBuf> {
        find("moto_server")
    }

    /// Starts moto with this minimum size of a part.
    pub async fn moto(program: PathBuf, part_bytes_min: u64) -> Self {
        let moto = Running::start("moto", |command, port, _| {
            command
                .arg(&program)
                .args(["-H", "127.0.0.1", "-p", &port.to_string()]);
            command.env("S3_UPLOAD_PART_MIN_SIZE", part_bytes_min.to_string());
            // moto derives this value from the minimum above; the result could be negative.
            command.env(
                "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE",
                (PART_BYTES_MIN - 1024).to_string(),
            );
        });
        Self(moto.await)
    }

    /// Checks that all programs of Ceph are installed.
    ///
    /// # Errors
    /// `NotFound` with the name of the first missing program.
    pub fn find_ceph() -> io::Result<()> {
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

    /// Starts Ceph with this minimum size of a part.
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

    /// Creates a bucket and returns an operator on it.
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

    /// Returns the keys of all multipart uploads that are still open.
    pub async fn open_uploads(&self, bucket: &str) -> Vec<String> {
        // The test lists few uploads; more than a page would be truncated, which is asserted.
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

    /// Begins a multipart upload and returns its id.
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

    /// Uploads a part and returns its etag.
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

    /// Completes a multipart upload and returns the answer. The body of an answer with a success
    /// status may contain an error.
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
                .expect("writing to a string cannot fail");
        }
        list.push_str("</CompleteMultipartUpload>");
        let target = signed("POST", &format!("/{bucket}/{key}?uploadId={upload}"));
        send(self.0.port(), "POST", target, list.into_bytes()).await
    }
}

/// Returns a target with a signature. The query must contain sub-resources only, in alphabetical
/// order.
fn signed(method: &str, resource: &str) -> String {
    // The two empty lines are the headers Content-MD5 and Content-Type.
    let text = format!("{method}\n\n\n{EXPIRES}\n{resource}");
    let signature = escaped(&base64_hmac_sha1(SECRET.as_bytes(), text.as_bytes()));
    let separator = if resource.contains('?') { '&' } else { '?' };
    format!("{resource}{separator}AWSAccessKeyId={KEY}&Expires={EXPIRES}&Signature={signature}")
}
