//! Kafka's names in Rust's spelling.

/// `ThrottleTimeMs` -> `throttle_time_ms`, `KRaftVersion` -> `kraft_version`; a keyword gets a trailing underscore.
pub fn snake(name: &str) -> String {
    let letters: Vec<char> = name.replace("KRaft", "Kraft").chars().collect();
    let mut out = String::new();
    for (at, letter) in letters.iter().enumerate() {
        let follows_word = at > 0 && !letters[at - 1].is_uppercase();
        let opens_word = at > 0 && letters.get(at + 1).is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && (follows_word || opens_word) {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    if matches!(out.as_str(), "type" | "match" | "ref" | "move" | "fn" | "in" | "use" | "where" | "loop" | "self") {
        out.push('_');
    }
    out
}
