//! What `/metrics` says of certificates: read from the present snapshot when a scrape asks.

use std::sync::Arc;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};

use crate::snapshot::SnapshotCell;

/// Tells when the certificates of the present snapshot end. There are at most as many series as certificates.
#[derive(Debug)]
pub struct CertificateCollector(pub Arc<SnapshotCell>);

impl Collector for CertificateCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "rustygate_certificate_expiry_timestamp_seconds",
            "When the first certificate of the chain to end does so, in Unix seconds",
            None,
            MetricType::Gauge,
        )?;
        // Held while the text is made; a scrape is short.
        let snapshot = Arc::clone(&self.0.load());
        for certificate in snapshot.certificates() {
            let labels = [("certificate", certificate.name.to_string())];
            ConstGauge::new(certificate.validity.not_after).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
