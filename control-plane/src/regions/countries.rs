//! The codes of countries that databases use: ISO 3166-1 alpha-2, and XK (Kosovo), which is not
//! in it and common.
//!
//! A slip such as `UK` would be a rule for nobody that looks as if it worked.

use ipwarden::geo::Country;

/// The assigned codes.
const CODES: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN \
    BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ \
    DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL \
    GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM \
    JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME \
    MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP \
    NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD \
    SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO \
    TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW XK";

/// Codes that people take for another country's, and that one's.
const SLIPS: [(&str, &str); 3] = [("UK", "GB"), ("EN", "GB"), ("SF", "FI")];

/// Whether some database may say this code.
#[must_use]
pub fn is_assigned(country: Country) -> bool {
    CODES.split(' ').any(|code| code == country.as_str())
}

/// What is meant by a code that is none, if that is known.
#[must_use]
pub fn meant(country: Country) -> Option<&'static str> {
    SLIPS.iter().find(|(slip, _)| *slip == country.as_str()).map(|(_, code)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_assigned_or_a_slip() {
        let country = |code: &str| Country::new(code).unwrap();
        for code in ["AD", "FR", "GB", "US", "ZW", "XK"] {
            assert!(is_assigned(country(code)), "{code}");
        }
        for code in ["UK", "EN", "QQ", "EU"] {
            assert!(!is_assigned(country(code)), "{code}");
        }
        assert_eq!((meant(country("UK")), meant(country("QQ"))), (Some("GB"), None));
        assert_eq!(CODES.split_whitespace().count(), 250);
        assert!(CODES.split_whitespace().all(|code| Country::new(code).is_some()));
    }
}
