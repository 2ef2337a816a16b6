//! Kubernetes' quantities: `100m`, `1.5`, `128Mi`, `1e3`.

/// The number that a quantity is; none where it is no quantity.
pub fn parse(text: &str) -> Option<f64> {
    let digits = text.find(|char: char| !matches!(char, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024f64,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        exponent => 10f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    // A division where the factor has no exact binary form: 100m is 0.1, and not 0.1000…01.
    Some(if factor < 1.0 { number / factor.recip().round() } else { number * factor })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_what_kubernetes_writes() {
        let known = [
            ("100m", 0.1),
            ("2", 2.0),
            ("1.5", 1.5),
            ("128Mi", 134_217_728.0),
            ("1Gi", 1_073_741_824.0),
            ("5k", 5000.0),
            ("1e3", 1000.0),
            ("1E3", 1000.0),
            ("2E", 2e18),
            ("250000n", 0.000_25),
            ("0", 0.0),
        ];
        for (text, value) in known {
            assert_eq!(parse(text), Some(value), "{text}");
        }
        for text in ["", "m", "1x", "Mi", "1ee", "--1"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
