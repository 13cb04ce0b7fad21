//! A frame on a terminal.

use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize as _};
use ratatui::text::{Line as Text, Text as Lines};
use ratatui::widgets::{Block, Borders, Paragraph, Row as Cells, Table, Wrap};

use super::frame::{Frame, Row};

/// Draws `frame`; what does not fit is left out below.
pub(super) fn draw(canvas: &mut ratatui::Frame<'_>, frame: &Frame) {
    let state = u16::try_from(frame.lines.len()).unwrap_or(u16::MAX).saturating_add(1);
    let verdicts = u16::try_from(frame.verdicts.len()).unwrap_or(u16::MAX).saturating_add(2);
    let [head, top, below] = Layout::vertical([
        Constraint::Length(state),
        Constraint::Length(verdicts),
        Constraint::Min(0),
    ])
    .areas(canvas.area());
    let lines: Vec<Text<'_>> = frame
        .lines
        .iter()
        .map(|line| {
            let text = Text::from(line.text.as_str());
            if line.urgent { text.bold().red() } else { text }
        })
        .collect();
    canvas.render_widget(Paragraph::new(Lines::from(lines)).wrap(Wrap { trim: false }), head);
    table(canvas, top, "verdict", &frame.verdicts);
    let [left, right] =
        Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(below);
    table(canvas, left, "reason", &frame.reasons);
    table(canvas, right, "set", &frame.sets);
}

fn table(canvas: &mut ratatui::Frame<'_>, area: Rect, head: &str, rows: &[Row]) {
    let [packets_per_second, bits_per_second, _] = Row::HEADS;
    let cells = rows.iter().map(|row| {
        let [packets_per_second, bits_per_second, _] = row.cells();
        Cells::new([row.name.clone(), packets_per_second, bits_per_second])
    });
    let widths = [Constraint::Min(14), Constraint::Length(10), Constraint::Length(8)];
    let heads = Cells::new([head.to_owned(), packets_per_second.into(), bits_per_second.into()]);
    let table = Table::new(cells, widths)
        .header(heads.style(Style::new().bold()))
        .block(Block::new().borders(Borders::TOP));
    canvas.render_widget(table, area);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::cli::top::frame::tests::observation;

    fn drawn(frame: &Frame, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|canvas| draw(canvas, frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn state_rates_and_names_are_on_the_screen() {
        let (before, now) = (observation("a", 1000), observation("a", 3000));
        let frame = Frame::of(&before, &now, Duration::from_secs(2));
        let screen = drawn(&frame, 80, 20);
        for words in
            ["generation 7, daemon 42", "uplink not kept", "direct", "no_prefix", "1 Exchange"]
        {
            assert!(screen.contains(words), "{words}:\n{screen}");
        }
        let line = screen.lines().find(|line| line.contains("no_prefix")).unwrap();
        assert!(line.contains("3000") && line.contains("2400 k"), "{line}");
    }

    #[test]
    fn no_size_of_terminal_is_too_small() {
        let now = observation("a", 1);
        let frame = Frame::of(&now, &now, Duration::from_secs(1));
        for (width, height) in [(1, 1), (3, 40), (80, 2), (200, 5), (20, 20)] {
            drawn(&frame, width, height);
        }
        let away = drawn(&Frame::without_daemon("no daemon answers"), 40, 5);
        assert!(away.contains("no daemon answers"), "{away}");
    }
}
