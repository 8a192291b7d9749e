use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Amount {
    text.parse().unwrap()
}

#[test]
fn canonical_text() {
    // Expectations from apimachinery's own tests and documentation.
    for (text, canonical) in [
        ("0", "0"),
        ("0Ki", "0"),
        ("0.0", "0"),
        ("1", "1"),
        ("100", "100"),
        ("1000", "1k"),
        ("1.5", "1500m"),
        ("0.5", "500m"),
        (".5", "500m"),
        ("100m", "100m"),
        ("1000m", "1"),
        ("1100m", "1100m"),
        ("1.5Gi", "1536Mi"),
        ("1Ki", "1Ki"),
        ("0.5Ki", "512"),
        ("1025", "1025"),
        ("1048576Ki", "1Gi"),
        ("64Mi", "64Mi"),
        ("128974848", "128974848"),
        ("129e6", "129e6"),
        ("129M", "129M"),
        ("128974848000m", "128974848"),
        ("123Mi", "123Mi"),
        ("12E", "12E"),
        ("1e3", "1e3"),
        ("12e2", "1200"),
        ("1E3", "1e3"),
        ("1e-3", "1e-3"),
        ("0.1n", "1n"),
        ("1e-40", "1e-9"),
        ("-1.5", "-1500m"),
        ("-2Ki", "-2Ki"),
        ("100Ei", "9223372036854775807"),
        ("1.1Ki", "1126400m"),
        ("0.0001Ki", "102400u"),
    ] {
        assert_eq!(parse(text).to_string(), canonical, "{text}");
    }
}

#[test]
fn rejects_with_the_text_named() {
    for text in ["", "1.1.M", "1+1.0M", "0.1mi", "0.1am", "aoeu", ".5i", "1i", "-3.01i", "-3.01e-", " 1", "1 ", "1Mib", "1e", "1e1.5", "ä"]
    {
        let error = text.parse::<Amount>().unwrap_err();
        assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
    }
}

#[test]
fn rounding_and_comparison() {
    assert_eq!(parse("1.2").value(), 2);
    assert_eq!(parse("1u").milli_value(), 1);
    assert_eq!(parse("250m").milli_value(), 250);
    assert_eq!(parse("1Gi").value(), 1 << 30);
    assert_eq!(parse("1Gi"), parse("1024Mi"));
    assert!(parse("1G") < parse("1Gi"));
    assert_eq!((Amount::ZERO + parse("1Gi") + parse("512Mi")).to_string(), "1536Mi");
    assert_eq!((parse("2") - parse("500m")).to_string(), "1500m");
    assert_eq!(parse("1e40").value(), i64::MAX);
}

#[test]
fn division_rounds_up() {
    assert_eq!(parse("250m").divided(Amount::ZERO, true), 1);
    assert_eq!(parse("250m").divided(parse("1m"), true), 250);
    assert_eq!(parse("1250m").divided(parse("1"), true), 2);
    assert_eq!(parse("64Mi").divided(Amount::ZERO, false), 67_108_864);
    assert_eq!(parse("65Mi").divided(parse("1Mi"), false), 65);
    assert_eq!(parse("65Mi").divided(parse("10Mi"), false), 7);
}

proptest! {
    #[test]
    fn never_panics(text in ".{0,24}") {
        let _ = text.parse::<Amount>().map(|a| (a.to_string(), a.value(), a.milli_value(), a + a));
    }

    #[test]
    fn never_panics_on_shapes(text in "[+-]?[0-9]{0,45}\\.?[0-9]{0,45}(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[0-9]{1,19}|e-[0-9]{1,19})?") {
        let amount = text.parse::<Amount>();
        if let Ok(amount) = amount {
            prop_assert!(amount.to_string().parse::<Amount>().is_ok());
        }
    }

    #[test]
    fn canonical_text_reads_back(number in -1_000_000_000_i64..1_000_000_000, fraction in 0_u32..1000,
                                 suffix in "(|n|u|m|k|M|G|Ki|Mi|Gi|e3|e-3)") {
        let amount = parse(&format!("{number}.{fraction:03}{suffix}"));
        let text = amount.to_string();
        prop_assert_eq!(parse(&text), amount);
        prop_assert_eq!(parse(&text).to_string(), text);
    }

    #[test]
    fn whole_numbers_are_exact(number in any::<i64>()) {
        prop_assert_eq!(parse(&number.to_string()).value(), number);
        prop_assert_eq!(Amount::whole(number).value(), number);
    }
}
