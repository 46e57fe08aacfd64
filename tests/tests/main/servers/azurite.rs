//! Azurite, which speaks the protocol of Azure's blob service.
//!
//! Containers are created with a presigned query (a shared access signature of the account:
//! <https://learn.microsoft.com/rest/api/storageservices/create-account-sas>). The signature covers
//! neither the current time nor any header. An open upload is a blob of uncommitted blocks: only
//! listings that ask for them show it, and on Azurite a delete of the blob removes them.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use cenotaph::Operator;
use cenotaph_tests::servers::http::{ask, between, escaped};
use cenotaph_tests::servers::launch::{Running, find};
use cenotaph_tests::servers::layered;
use reqsign_core::hash::{base64_decode, base64_hmac_sha256};

use super::suite::Server;

const ACCOUNT: &str = "cenotaph";
/// Account key, in Base64 as Azure's keys are.
const KEY: &str = "Y2Vub3RhcGg=";

/// Azurite.
pub(super) struct Azurite(Running);

impl Azurite {
    /// Finds the program of Azurite.
    pub(super) fn find() -> io::Result<PathBuf> {
        find("azurite-blob")
    }

    pub(super) async fn start(program: PathBuf) -> Self {
        let azurite = Running::start("azurite", |command, port, _| {
            command.arg(&program).args([
                "--inMemoryPersistence",
                "--skipApiVersionCheck",
                "--disableTelemetry",
            ]);
            command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
            command.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"));
        });
        Self(azurite.await)
    }

    /// Begins an upload in blocks and leaves it open.
    pub(super) async fn leave_upload_open(&self, container: &str, blob: &str) {
        ask(
            self.0.port(),
            "PUT",
            Self::signed(&format!("/{container}/{blob}?comp=block&blockid=AAAA")),
        )
        .await;
    }

    /// Returns the names in a listing of a container, still escaped.
    async fn names(&self, container: &str, include: &str) -> BTreeSet<String> {
        let resource = format!("/{container}?restype=container&comp=list{include}");
        let answer = ask(self.0.port(), "GET", Self::signed(&resource))
            .await
            .body;
        assert!(
            answer.contains("<NextMarker/>"),
            "the listing has a single page: {answer}"
        );
        between(&answer, "<Name>", "</Name>")
            .map(str::to_owned)
            .collect()
    }

    /// Returns a target with a signature that permits everything. The query must not be empty.
    fn signed(resource: &str) -> String {
        let version = "2018-11-09";
        let service = "b";
        let kinds = "sco";
        let permissions = "rwdlac";
        let end = "2100-01-01";
        let text = [
            ACCOUNT,
            permissions,
            service,
            kinds,
            "",
            end,
            "",
            "",
            version,
            "",
        ]
        .join("\n");
        let signature = escaped(&base64_hmac_sha256(
            &base64_decode(KEY).unwrap(),
            text.as_bytes(),
        ));
        format!(
            "/{ACCOUNT}{resource}&sv={version}&ss={service}&srt={kinds}&sp={permissions}\
             &se={end}&sig={signature}"
        )
    }
}

impl Server for Azurite {
    async fn bucket(&self, name: &str) -> Operator {
        ask(
            self.0.port(),
            "PUT",
            Self::signed(&format!("/{name}?restype=container")),
        )
        .await;
        let builder = opendal::services::Azblob::default()
            .endpoint(&format!("http://127.0.0.1:{}/{ACCOUNT}", self.0.port()))
            .container(name)
            .account_name(ACCOUNT)
            .account_key(KEY);
        layered(Operator::new(builder).unwrap())
    }

    async fn open_uploads(&self, bucket: &str) -> Vec<String> {
        let all = self.names(bucket, "&include=uncommittedblobs").await;
        all.difference(&self.names(bucket, "").await)
            .cloned()
            .collect()
    }
}
