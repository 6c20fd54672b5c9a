//! Text from elsewhere made harmless and fitted to a page: names, questions and server strings
//! may hold anything. Every string of a [`View`](super::view::View) passes through [`line`] or
//! [`block`]; the writers add the escaping of their own format.

use unicode_width::UnicodeWidthStr;

/// Columns that a terminal line may take.
pub const COLUMNS: usize = 80;

/// One line: control, direction and zero-width characters removed, white space runs made one
/// space.
pub fn line(text: &str) -> String {
    let shown: String = text
        .chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .filter(|&c| !hidden(c))
        .collect();
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Several lines: as [`line`], but line breaks and indentation stay.
pub fn block(text: &str) -> String {
    text.replace("\r\n", "\n")
        .chars()
        .map(|c| if c == '\t' { ' ' } else { c })
        .filter(|&c| c == '\n' || !hidden(c))
        .collect()
}

/// Characters that a reader does not see but that bend what he sees.
fn hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Columns of a terminal that `text` takes.
pub fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// `text` in at most `max` columns, cut with `…`.
pub fn shorten(text: &str, max: usize) -> String {
    if width(text) <= max {
        return text.to_owned();
    }
    let (head, _) = split_at_width(text, max.saturating_sub(1));
    format!("{}…", head.trim_end())
}

/// The longest beginning of at most `max` columns, and the rest.
fn split_at_width(text: &str, max: usize) -> (&str, &str) {
    let mut end = 0;
    for (at, c) in text.char_indices() {
        let next = at + c.len_utf8();
        if width(&text[..next]) > max {
            break;
        }
        end = next;
    }
    text.split_at(end)
}

/// `text` behind `label`, later lines indented to below its beginning, none longer than
/// [`COLUMNS`]; `end` closes each line but the last (a backslash for commands).
pub fn hanging(label: &str, text: &str, end: &str) -> Vec<String> {
    let indent = width(label);
    let room = COLUMNS.saturating_sub(indent + width(end)).max(2);
    let mut lines = Vec::new();
    let mut current = String::new();
    for word in text.split(' ').filter(|w| !w.is_empty()) {
        let joined = width(&current) + usize::from(!current.is_empty()) + width(word);
        if !current.is_empty() && joined > room {
            lines.push(std::mem::take(&mut current));
        }
        if !current.is_empty() {
            current.push(' ');
        }
        let mut rest = word;
        while width(&current) + width(rest) > room {
            let (head, tail) = split_at_width(rest, room);
            if head.is_empty() {
                break;
            }
            lines.push(head.to_owned());
            rest = tail;
        }
        current.push_str(rest);
    }
    lines.push(current);
    let last = lines.len() - 1;
    lines
        .iter()
        .enumerate()
        .map(|(i, line)| {
            let start = if i == 0 {
                label.to_owned()
            } else {
                " ".repeat(indent)
            };
            let end = if i == last { "" } else { end };
            format!("{start}{line}{end}").trim_end().to_owned()
        })
        .collect()
}

/// `text` filled with spaces to `columns`, on the left (right-aligned) or on the right.
pub fn pad(text: &str, columns: usize, right_aligned: bool) -> String {
    let fill = " ".repeat(columns.saturating_sub(width(text)));
    if right_aligned {
        format!("{fill}{text}")
    } else {
        format!("{text}{fill}")
    }
}

/// Escapes for Markdown, table cells included: nothing in `text` starts a markup, a tag, a
/// mention or a new cell.
pub fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '|' | '~' | '!' => {
                out.push('\\');
                out.push(c);
            }
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '@' => out.push_str("&#64;"),
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_reader_cannot_see_is_removed() {
        assert_eq!(line("a\u{1b}[31mb\n\tc \u{202e}d\u{9b}"), "a[31mb c d");
        assert_eq!(block("a\r\n\tb\u{7}"), "a\n b");
    }

    #[test]
    fn markdown_loses_its_meaning() {
        assert_eq!(markdown("a|b `c` <i>@x"), "a\\|b \\`c\\` &lt;i&gt;&#64;x");
    }

    proptest! {
        #[test]
        fn lines_keep_within_the_page_and_lose_no_word(text in "\\PC{0,200}", label in "[a-z]{0,9} {0,3}") {
            let text = line(&text);
            let lines = hanging(&label, &text, " \\");
            for l in &lines {
                prop_assert!(width(l) <= COLUMNS, "{}: {l}", width(l));
            }
            let letters = |s: &str| s.chars().filter(|c| !c.is_whitespace() && *c != '\\').collect::<String>();
            let all: String = lines.iter().enumerate().map(|(i, l)| {
                let l = if i == 0 { &l[label.trim_end().len().min(l.len())..] } else { l.as_str() };
                letters(l)
            }).collect();
            prop_assert_eq!(all, letters(&text));
        }

        #[test]
        fn shortened_text_fits(text in "\\PC{0,60}", max in 1usize..40) {
            prop_assert!(width(&shorten(&line(&text), max)) <= max);
        }
    }
}
