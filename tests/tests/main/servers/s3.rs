//! Servers that speak S3: moto, and the gateway of Ceph, which is the real thing on a disk in memory.
//!
//! Buckets are made, and open multipart uploads listed, with a query that is signed once and for all (version 2 of
//! Amazon's signatures: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/RESTAuthentication.html>), so that no
//! clock and no header takes part in it.

use std::io;
use std::path::PathBuf;

use cenotaph::Operator;
use reqsign_core::hash::base64_hmac_sha1;

use super::http::{ask, between, escaped};
use super::launch::{Running, find, free_port};
use super::suite::{Server, layered};

const KEY: &str = "key";
const SECRET: &str = "secret";
/// When signed queries end: in the year 2100.
const EXPIRES: &str = "4102444800";
/// How Ceph is brought up: a monitor, one disk in memory, a user, the gateway.
const CEPH: &str = include_str!("ceph.sh");

/// A server that speaks S3.
pub(super) struct S3(Running);

impl S3 {
    /// Whether moto is here.
    pub(super) fn moto_is_here() -> io::Result<PathBuf> {
        find("moto_server")
    }

    pub(super) async fn moto(program: PathBuf) -> Self {
        let moto = Running::start("moto", |command, port, _| {
            command.arg(&program).args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        });
        Self(moto.await)
    }

    /// Whether all programs are here that Ceph consists of.
    pub(super) fn ceph_is_here() -> io::Result<()> {
        let programs = ["ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin"];
        programs.into_iter().try_for_each(|program| find(program).map(drop))
    }

    pub(super) async fn ceph() -> Self {
        let ceph = Running::start("ceph", |command, port, directory| {
            let ports = [port, free_port()].map(|port| port.to_string());
            command.args(["sh", "-c", CEPH, "ceph"]).arg(directory).args(ports).args([KEY, SECRET]);
        });
        Self(ceph.await)
    }

    /// Begins an upload in parts, and leaves it so.
    pub(super) async fn leave_upload_open(&self, bucket: &str, key: &str) {
        ask(self.0.port(), "POST", Self::signed("POST", &format!("/{bucket}/{key}?uploads"))).await;
    }

    /// A target with a signature. Of its query, what is no sub-resource must not be there.
    fn signed(method: &str, resource: &str) -> String {
        let text = format!("{method}\n\n\n{EXPIRES}\n{resource}");
        let signature = escaped(&base64_hmac_sha1(SECRET.as_bytes(), text.as_bytes()));
        let separator = if resource.contains('?') { '&' } else { '?' };
        format!("{resource}{separator}AWSAccessKeyId={KEY}&Expires={EXPIRES}&Signature={signature}")
    }
}

impl Server for S3 {
    async fn bucket(&self, name: &str) -> Operator {
        ask(self.0.port(), "PUT", Self::signed("PUT", &format!("/{name}"))).await;
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

    async fn open_uploads(&self, bucket: &str) -> Vec<String> {
        let answer = ask(self.0.port(), "GET", Self::signed("GET", &format!("/{bucket}?uploads"))).await.body;
        assert!(answer.contains("<ListMultipartUploadsResult") && !answer.contains("<IsTruncated>true"), "{answer}");
        between(&answer, "<Key>", "</Key>").map(str::to_owned).collect()
    }

    fn cuts_blobs_into_parts(&self) -> bool {
        true
    }
}
