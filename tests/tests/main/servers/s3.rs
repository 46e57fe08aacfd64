//! S3 servers as blob tiers of the suite. Their start and requests are in the
//! library of this crate.

use cenotaph::Operator;
use cenotaph_tests::servers::s3::S3;

use super::suite::Server;

impl Server for S3 {
    async fn bucket(&self, name: &str) -> Operator {
        S3::bucket(self, name).await
    }

    async fn open_uploads(&self, bucket: &str) -> Vec<String> {
        S3::open_uploads(self, bucket).await
    }

    fn cuts_blobs_into_parts(&self) -> bool {
        true
    }
}
