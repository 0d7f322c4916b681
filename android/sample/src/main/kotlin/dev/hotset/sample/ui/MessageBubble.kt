// One message: the person's to the right, the model's to the left.
package dev.hotset.sample.ui

import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.dp
import dev.hotset.Message
import dev.hotset.Role

@Composable
fun MessageBubble(message: Message) {
    val mine = message.role == Role.USER
    val colors = MaterialTheme.colorScheme
    Box(modifier = Modifier.fillMaxWidth(), contentAlignment = if (mine) Alignment.CenterEnd else Alignment.CenterStart) {
        Surface(color = if (mine) colors.primaryContainer else colors.surfaceVariant, shape = MaterialTheme.shapes.large) {
            Text(message.text, modifier = Modifier.padding(12.dp))
        }
    }
}
