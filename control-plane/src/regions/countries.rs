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

/// Codes, and the English names under which geolocation services and ISO 3166 know them: in
/// lower case, without accents, articles and punctuation.
const NAMES: &str = include_str!("names.txt");

/// The country of an English name.
#[must_use]
pub fn named(name: &str) -> Option<Country> {
    let name = plain(name);
    let mut lines = NAMES.lines().map(|line| line.split('\t'));
    lines.find_map(|mut words| {
        let code = words.next()?;
        words.any(|known| known == name).then(|| Country::new(code)).flatten()
    })
}

/// A name as [`NAMES`] has it.
fn plain(name: &str) -> String {
    let mut letters = String::with_capacity(name.len());
    for c in name.chars().flat_map(char::to_lowercase) {
        match c {
            'a'..='z' => letters.push(c),
            'à'..='å' => letters.push('a'),
            'ç' => letters.push('c'),
            'è'..='ë' => letters.push('e'),
            'ì'..='ï' => letters.push('i'),
            'ò'..='ö' => letters.push('o'),
            'ù'..='ü' => letters.push('u'),
            '&' => letters.push_str(" and "),
            // Parts of a word, and what is left of a capital I with a dot.
            '\'' | '’' | '\u{307}' => {}
            _ => letters.push(' '),
        }
    }
    let words = letters.split_whitespace().filter(|word| *word != "the");
    words.map(|word| if word == "st" { "saint" } else { word }).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_name_that_is_plain_and_nobody_elses() {
        let mut names = hashbrown::HashSet::new();
        let mut codes = Vec::new();
        for line in NAMES.lines() {
            let mut words = line.split('\t');
            codes.push(words.next().unwrap());
            assert!(words.clone().count() > 0, "{line}");
            for name in words {
                assert_eq!(plain(name), name);
                assert!(names.insert(name), "{name}");
            }
        }
        let mut assigned: Vec<&str> = CODES.split_whitespace().collect();
        assigned.sort_unstable();
        assert_eq!(codes, assigned);
        assert_eq!(named("France").unwrap().as_str(), "FR");
        assert_eq!(named("Franconia"), None);
    }

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
