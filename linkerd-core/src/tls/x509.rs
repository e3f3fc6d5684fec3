//! What is read of a certificate: as much as errors, metrics and headers say of it. Whether it is to be trusted is
//! decided by rustls.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A certificate, as far as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    /// 1, 2 or 3.
    pub(super) version: u8,
    /// Big-endian.
    pub(super) serial: Vec<u8>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// As RFC 4514 has it, the last element first; with a space behind each comma.
    pub(super) subject: String,
    pub(super) common_name: Option<String>,
    pub(super) dns_names: Vec<String>,
    pub(super) uris: Vec<String>,
    /// Whether there are names of any kind, addresses too.
    pub(super) has_names: bool,
}

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;

const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The names of attributes, by their object identifiers.
const ATTRIBUTES: [(&[u8], &str); 9] = [
    (COMMON_NAME, "CN"),
    (&[0x55, 0x04, 0x06], "C"),
    (&[0x55, 0x04, 0x07], "L"),
    (&[0x55, 0x04, 0x08], "ST"),
    (&[0x55, 0x04, 0x09], "STREET"),
    (&[0x55, 0x04, 0x0a], "O"),
    (&[0x55, 0x04, 0x0b], "OU"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19], "DC"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01], "UID"),
];

impl Certificate {
    /// Reads DER; `None` if it is no certificate.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let mut outer = Der(der).open(SEQUENCE)?;
        let mut tbs = outer.open(SEQUENCE)?;
        let version = match tbs.peek()? {
            VERSION => tbs.open(VERSION)?.take(INTEGER)?.first()?.checked_add(1)?,
            _ => 1,
        };
        let serial = tbs.take(INTEGER)?.to_vec();
        tbs.take(SEQUENCE)?; // signature algorithm
        tbs.take(SEQUENCE)?; // issuer
        let mut validity = tbs.open(SEQUENCE)?;
        let not_before = time(validity.next()?)?;
        let not_after = time(validity.next()?)?;
        let (subject, common_name) = name(tbs.open(SEQUENCE)?)?;
        let mut cert = Self {
            version,
            serial,
            not_before,
            not_after,
            subject,
            common_name,
            dns_names: Vec::new(),
            uris: Vec::new(),
            has_names: false,
        };
        while let Some((tag, value)) = tbs.next() {
            if tag == EXTENSIONS {
                cert.extensions(Der(value).open(SEQUENCE)?)?;
            }
        }
        Some(cert)
    }

    fn extensions(&mut self, mut extensions: Der<'_>) -> Option<()> {
        while !extensions.0.is_empty() {
            let mut extension = extensions.open(SEQUENCE)?;
            if extension.take(OID)? != SUBJECT_ALT_NAME {
                continue;
            }
            // Whether it is critical comes first, if it is said.
            let value = loop {
                if let (OCTETS, value) = extension.next()? {
                    break value;
                }
            };
            let mut names = Der(value).open(SEQUENCE)?;
            while let Some((tag, value)) = names.next() {
                self.has_names = true;
                let Ok(value) = std::str::from_utf8(value) else { continue };
                match tag {
                    DNS_NAME => self.dns_names.push(value.to_owned()),
                    URI => self.uris.push(value.to_owned()),
                    _ => {}
                }
            }
        }
        Some(())
    }

    /// The serial number in hexadecimal digits.
    pub(super) fn serial_hex(&self) -> String {
        hex(&self.serial)
    }
}

/// The DER of who signed a certificate, without what says that it is a name.
pub(super) fn issuer(der: &[u8]) -> Option<&[u8]> {
    before_issuer(der)?.take(SEQUENCE)
}

/// The same of whose it is.
pub(super) fn subject(der: &[u8]) -> Option<&[u8]> {
    let mut tbs = before_issuer(der)?;
    tbs.take(SEQUENCE)?; // issuer
    tbs.take(SEQUENCE)?; // validity
    tbs.take(SEQUENCE)
}

fn before_issuer(der: &[u8]) -> Option<Der<'_>> {
    let mut tbs = Der(der).open(SEQUENCE)?.open(SEQUENCE)?;
    if tbs.peek()? == VERSION {
        tbs.next()?;
    }
    tbs.take(INTEGER)?; // serial number
    tbs.take(SEQUENCE)?; // signature algorithm
    Some(tbs)
}

/// As text, the DER of a name without what says that it is one.
pub(super) fn shown(der: &[u8]) -> Option<String> {
    name(Der(der)).map(|(text, _)| text)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// What is left of a run of DER elements.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element, its tag and what is in it.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], mut rest) = self.0.split_first_chunk()?;
        let len = match first {
            0..=0x7f => usize::from(first),
            // Four bytes at most: no certificate is larger.
            0x81..=0x84 => {
                let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
                rest = after;
                digits.iter().fold(0, |len, digit| (len << 8) | usize::from(*digit))
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, value))
    }

    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, value)| value)
    }

    fn open(&mut self, tag: u8) -> Option<Self> {
        self.take(tag).map(Self)
    }
}

/// A distinguished name as text, and the last common name in it.
fn name(mut name: Der<'_>) -> Option<(String, Option<String>)> {
    let mut elements = Vec::new();
    let mut common_name = None;
    while !name.0.is_empty() {
        let mut set = name.open(SET)?;
        let mut attributes = Vec::new();
        while !set.0.is_empty() {
            let mut attribute = set.open(SEQUENCE)?;
            let oid = attribute.take(OID)?;
            let (_, value) = attribute.next()?;
            let value = String::from_utf8_lossy(value);
            let key = ATTRIBUTES.iter().find(|(known, _)| *known == oid).map(|(_, name)| (*name).to_owned());
            attributes.push(format!("{}={}", key.unwrap_or_else(|| dotted(oid)), escaped(&value)));
            if oid == COMMON_NAME {
                common_name = Some(value.into_owned());
            }
        }
        elements.push(attributes.join("+"));
    }
    elements.reverse();
    Some((elements.join(", "), common_name))
}

/// An attribute's value as RFC 4514 has it. What is no printable ASCII is escaped by its bytes.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => text.extend(['\\', char::from(byte)]),
            b'#' | b' ' if at == 0 => text.extend(['\\', char::from(byte)]),
            b' ' if at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.extend(["\\", &hex(&[byte])]),
        }
    }
    text
}

/// An object identifier in digits and dots.
fn dotted(oid: &[u8]) -> String {
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc = 0_u64;
    for byte in oid {
        arc = arc.wrapping_shl(7) | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if arcs.is_empty() {
            let first = (arc / 40).min(2);
            arcs.extend([first, arc - 40 * first]);
        } else {
            arcs.push(arc);
        }
        arc = 0;
    }
    arcs.iter().map(ToString::to_string).collect::<Vec<_>>().join(".")
}

/// `UTCTime` and `GeneralizedTime`, both in seconds and UTC as RFC 5280 has them.
fn time((tag, value): (u8, &[u8])) -> Option<SystemTime> {
    let digits = value.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0_i64, |n, digit| 10 * n + i64::from(digit - b'0'));
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year = number(&digits[..2]);
            (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(&rest[at..at + 2]));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    // What expired before 1970 expired.
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Days from 1970-01-01, in the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March: the day that is there in some years alone is the last one.
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day
        - 719_469
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, date_time_ymd};

    use super::*;

    fn made(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_says_whose_it_is_and_for_how_long() {
        let der = made(|params| {
            params.distinguished_name.push(DnType::OrganizationName, "A, \"B\"");
            params.distinguished_name.push(DnType::CommonName, "wéb");
            params.not_before = date_time_ymd(2031, 2, 28);
            params.not_after = date_time_ymd(2031, 3, 1);
            params.serial_number = Some(vec![0x12, 0xab].into());
            params.subject_alt_names = vec![
                SanType::DnsName("web.example.com".try_into().unwrap()),
                SanType::URI("spiffe://a/b".try_into().unwrap()),
                SanType::IpAddress([127, 0, 0, 1].into()),
            ];
        });
        let cert = Certificate::read(&der).unwrap();
        assert_eq!(cert.version, 3);
        assert_eq!(cert.serial_hex(), "12ab");
        assert_eq!(cert.subject, r#"CN=w\c3\a9b, O=A\, \"B\""#);
        assert_eq!(cert.common_name.as_deref(), Some("wéb"));
        assert_eq!((cert.dns_names, cert.uris), (vec!["web.example.com".to_owned()], vec!["spiffe://a/b".to_owned()]));
        assert_eq!(cert.not_before, UNIX_EPOCH + Duration::from_hours(536_112));
        assert_eq!(cert.not_after, UNIX_EPOCH + Duration::from_hours(536_136));
        assert!(cert.has_names);
        assert!(!Certificate::read(&made(|_| {})).unwrap().has_names);
    }

    #[test]
    fn times_of_both_kinds_are_read() {
        let secs =
            |tag, text: &str| time((tag, text.as_bytes())).map(|at| at.duration_since(UNIX_EPOCH).unwrap().as_secs());
        assert_eq!(secs(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(secs(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(secs(GENERALIZED_TIME, "20240229120000Z"), Some(1_709_208_000));
        assert_eq!(secs(GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        for bad in ["", "Z", "70010100000Z", "7001010000x0Z", "701301000000Z"] {
            assert_eq!(secs(UTC_TIME, bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_cut_off_is_no_certificate_and_no_panic() {
        let der = made(|params| params.subject_alt_names = vec![SanType::DnsName("a".try_into().unwrap())]);
        for len in 0..der.len() {
            assert_eq!(Certificate::read(&der[..len]), None, "{len}");
        }
        for at in 0..der.len() {
            for byte in [0, 0x30, 0x7f, 0x84, 0xff] {
                let mut broken = der.clone();
                broken[at] = byte;
                let _ = Certificate::read(&broken);
            }
        }
    }

    #[test]
    fn unknown_attributes_are_written_in_digits() {
        assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01]), "1.2.840.113549.1.9.1");
        assert_eq!(dotted(&[0x55, 0x04, 0x61]), "2.5.4.97");
    }
}
