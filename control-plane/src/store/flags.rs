//! Envoy's response flags: from the set of bits that a filter sees to the short names of
//! the access log.
//!
//! Bit n is number n of `CoreResponseFlag` in Envoy's `envoy/stream_info/stream_info.h`
//! (1.40); the names are those of `%RESPONSE_FLAGS%`. Envoy only ever appends to that list.

use ipwarden::record::GEO_QUOTA_FLAG;

/// The filter's own flag: its quota of geolocation look-ups was used up.
const GEO_QUOTA: &str = "GEO_QUOTA";

/// Short names by bit.
const NAMES: [&str; 30] = [
    "LH",    // local health check failed
    "UH",    // no healthy upstream
    "UT",    // upstream request timeout
    "LR",    // local reset
    "UR",    // upstream remote reset
    "UF",    // upstream connection failure
    "UC",    // upstream connection termination
    "UO",    // upstream overflow
    "NR",    // no route found
    "DI",    // delay injected
    "FI",    // fault injected
    "RL",    // rate limited
    "UAEX",  // refused by external authorization
    "RLSE",  // rate limit service error
    "DC",    // downstream connection termination
    "URX",   // upstream retry limit exceeded
    "SI",    // stream idle timeout
    "IH",    // invalid x-envoy headers
    "DPE",   // downstream protocol error
    "UMSDR", // upstream max stream duration reached
    "RFCF",  // response from the cache filter
    "NFCF",  // no filter configuration found
    "DT",    // duration timeout
    "UPE",   // upstream protocol error
    "NC",    // no cluster found
    "OM",    // overload manager
    "DF",    // DNS resolution failed
    "DO",    // dropped for overload
    "DR",    // downstream remote reset
    "UDO",   // all dropped for overload
];

/// The names of the bits that are set, with commas between them; `None` for none. Bits of a
/// later Envoy are shown together as a hexadecimal number at the end.
#[must_use]
pub fn short_names(flags: u64) -> Option<String> {
    let mut names: Vec<String> = NAMES
        .iter()
        .enumerate()
        .filter(|(bit, _)| flags >> bit & 1 == 1)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    if flags & GEO_QUOTA_FLAG != 0 {
        names.push(GEO_QUOTA.to_owned());
    }
    let unknown = (flags & !GEO_QUOTA_FLAG) >> NAMES.len() << NAMES.len();
    if unknown != 0 {
        names.push(format!("{unknown:#x}"));
    }
    (!names.is_empty()).then(|| names.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_the_names_of_the_access_log() {
        assert_eq!(short_names(0), None);
        assert_eq!(short_names(0b10).as_deref(), Some("UH"));
        assert_eq!(short_names(1 << 1 | 1 << 5).as_deref(), Some("UH,UF"));
        assert_eq!(short_names(1 << 14).as_deref(), Some("DC"));
        assert_eq!(short_names(1 << 28).as_deref(), Some("DR"));
        assert_eq!(short_names(1 << 1 | 1 << 40).as_deref(), Some("UH,0x10000000000"));
        assert_eq!(short_names(1 << 14 | GEO_QUOTA_FLAG).as_deref(), Some("DC,GEO_QUOTA"));
    }
}
